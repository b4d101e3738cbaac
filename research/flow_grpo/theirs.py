"""Their side of the comparison, in a process of its own: ``python -m research.flow_grpo.theirs JOB``.

The function ``main`` of ``scripts/train_sd3.py`` of a clone of github.com/yifan123/flow_grpo is executed as it is, with
the torch, diffusers, accelerate and peft of this environment (tried with their commit ac4c86e). Nothing of the clone is
changed or copied. What it needs and does not get on a CPU without network is put in its place when it is imported:

1. ``ml_collections``: an empty ``config_flags``, and a ``ConfigDict`` that holds attributes. Their ``config/base.py``
   fills it, `configure` sets the values of the comparison, and the result replaces the parsed flags.
2. ``wandb``: ``init``, ``log`` and ``Image`` do nothing.
3. ``flow_grpo.rewards.multi_score``: the reward of the comparison, called as theirs are, in their pool of threads.
4. The small checkpoint has no T5, as the published one may be loaded without it: its encoder becomes one that returns
   zeros, and its tokenizer that of CLIP.
5. Tokenizers: no more tokens than the small text encoders have places for, where the script asks for 77, 128 or 256.
6. ``PeftModel.module``: the model itself, as their script expects it to be wrapped for several GPUs.
7. ``tqdm``: no bars; the names of the loops give the clock the phase that begins, and the first loop too many ends the
   run.

``compute_text_embeddings`` and the decoder are timed from outside. Evaluation before the first epoch has a single
prompt and is not measured, like that epoch.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor, nn

from flexgym.bench.clock import Clock
from flexgym.bench.hooks import DECODING, ENCODING, SAMPLING, UPDATE, watched_calls
from flexgym.core.errors import ConfigError
from flexgym.rewards.registry import make
from flexgym.types import Prompt, SampleGroup
from research.flow_grpo.work import REST, REWARD, UPDATES, WARM_UP, Job, Measured, Work, counted_rows

_BETA = 0.04
"""Coefficient of their KL with a LoRA, as in most of their configurations."""
_LOOPS = {"sampling": SAMPLING, "Waiting": REST, "training": UPDATE}
"""Phases by a word in the names of the loops that begin them."""


class FinishedError(Exception):
    """Raised inside of their loop, which has no end, after the last measured epoch."""


class Progress:
    """Stands for ``tqdm``, and measures the phases that its loops begin.

    Args:
        measured: gets every epoch.
        epochs: epochs after which `FinishedError` is raised.
    """

    def __init__(self, measured: Measured, epochs: int) -> None:
        self.measured, self.epochs = measured, epochs
        self.clock, self.counts = Clock(torch.device("cpu")), Counter[str]()
        self._open = contextlib.ExitStack()
        self._begun = 0

    def __call__(self, loop: Iterable[Any], desc: str = "", **_: Any) -> Iterable[Any]:
        """Return the loop itself, after its phase has begun."""
        phase = next((phase for word, phase in _LOOPS.items() if word in desc), None)
        if phase is not None:
            self._begin(phase)
        return loop

    def _begin(self, phase: str) -> None:
        self._open.close()
        if phase == SAMPLING:
            if self._begun:  # what comes before belongs to no epoch
                self.measured.add(dict(self.clock.seconds), dict(self.counts))
            self.clock.seconds.clear()
            self.counts.clear()
            if self._begun == self.epochs:
                raise FinishedError
            self._begun += 1
        self._open.enter_context(self.clock.phase(phase))


class ZeroEncoder(nn.Module):
    """Text encoder in place of a missing T5.

    Args:
        width: size of the embeddings.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.nothing: Tensor
        self.register_buffer("nothing", torch.zeros(width))

    @property
    def dtype(self) -> torch.dtype:
        """Return the type of the embeddings."""
        return self.nothing.dtype

    @property
    def device(self) -> torch.device:
        """Return the device of the embeddings."""
        return self.nothing.device

    def forward(self, tokens: Tensor) -> tuple[Tensor]:
        """Return zeros for every token, ``[B, L, width]``."""
        return (self.nothing.expand(*tokens.shape, -1),)


class ShortTokenizer:
    """Tokenizer that returns no more tokens than an encoder takes.

    Args:
        tokenizer: the tokenizer itself.
        longest: number of tokens.
    """

    def __init__(self, tokenizer: Any, longest: int) -> None:
        self.tokenizer, self.longest = tokenizer, longest

    def __call__(self, texts: Any, *, max_length: int, **options: Any) -> Any:
        """Tokenize texts to at most the length that is asked for."""
        return self.tokenizer(texts, max_length=min(max_length, self.longest), **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.tokenizer, name)


class ConfigDict(SimpleNamespace):
    """Namespace in place of the one of ``ml_collections``."""


def configure(config: Any, work: Work) -> Any:
    """Set the values of the comparison in their configuration.

    Args:
        config: the defaults of their ``config/base.py``.
        work: what is trained.
    """
    rows, sampling = work.samples // UPDATES, work.sampling
    guided = sampling["guidance_scale"] > 1.0
    sections: dict[str, dict[str, Any]] = {
        "pretrained": {"model": work.checkpoint},
        "sample": {
            **{"num_steps": int(sampling["num_steps"]), "eval_num_steps": int(sampling["num_steps"])},
            **{"guidance_scale": sampling["guidance_scale"], "noise_level": 0.7, "global_std": True},
            **{"train_batch_size": rows, "num_image_per_prompt": work.group_size, "num_batches_per_epoch": UPDATES},
            # Later versions count prompts rather than batches.
            **{"unique_sample_per_epoch": work.num_prompts, "unique_prompt_per_epoch": work.num_prompts},
            **{"same_latent": False},
        },
        "train": {
            **{"batch_size": rows, "gradient_accumulation_steps": 1, "timestep_fraction": 0.99, "cfg": guided},
            **{"beta": _BETA if work.lora else 0.0, "ema": False},
        },
        "": {
            **{"mixed_precision": "no", "use_lora": work.lora, "resolution": int(sampling["height"])},
            **{"dataset": work.prompts, "prompt_fn": "general_ocr", "reward_fn": {REWARD: 1.0}},
            **{"save_freq": 10**9, "eval_freq": 10**9, "logdir": str(Path(work.prompts) / "logs")},
        },
    }
    for section, values in sections.items():
        owner = getattr(config, section) if section else config
        for name, value in values.items():
            setattr(owner, name, value)
    return config


def scored(_device: Any, weights: dict[str, float]) -> Any:
    """Return the reward of the comparison in the form of their ``multi_score``.

    Args:
        weights: the name of the reward, with the weight 1.
    """
    (name,) = weights
    reward = make(name)

    def score(images: Tensor, prompts: Sequence[str], *_: Any, **__: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        pixels = (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
        groups = [SampleGroup(Prompt(text), each[None]) for text, each in zip(prompts, pixels, strict=True)]
        rewards = np.concatenate([scores.rewards for scores in reward.score(groups)])
        return {name: rewards, "avg": rewards}, {}

    return score


def loading(pipeline_class: Any, longest: int) -> Any:
    """Return a stand-in for their class of the pipeline that completes what it loads.

    Args:
        pipeline_class: the class of diffusers.
        longest: tokens of the missing T5.
    """

    def from_pretrained(source: str) -> Any:
        pipeline = pipeline_class.from_pretrained(source)
        places = pipeline.text_encoder.config.max_position_embeddings
        pipeline.text_encoder_3 = ZeroEncoder(pipeline.transformer.config.joint_attention_dim)
        pipeline.tokenizer_3 = ShortTokenizer(pipeline.tokenizer_2, longest)
        pipeline.tokenizer = ShortTokenizer(pipeline.tokenizer, places)
        pipeline.tokenizer_2 = ShortTokenizer(pipeline.tokenizer_2, places)
        return pipeline

    return SimpleNamespace(from_pretrained=from_pretrained)


def import_script(script: Path) -> ModuleType:
    """Import their script, with what it imports and this environment lacks in its place.

    Raises:
        ConfigError: there is no such file.
    """
    if not script.is_file():
        raise ConfigError(f"{script}: expected their training script: pass a clone of github.com/yifan123/flow_grpo")
    flags, tracker = ModuleType("ml_collections"), ModuleType("wandb")
    flags.__dict__.update(ConfigDict=ConfigDict, config_flags=SimpleNamespace(DEFINE_config_file=_nothing))
    tracker.__dict__.update(init=_nothing, log=_nothing, Image=_nothing)
    sys.modules |= {"ml_collections": flags, "wandb": tracker}
    sys.path.insert(0, str(script.parents[1]))
    return _loaded(script)


def _loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"their_{path.stem}", path)
    assert spec is not None, "it ends with .py"
    assert spec.loader is not None, "it is a file"
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _nothing(*_: Any, **__: Any) -> None:
    return None


def measure(job: Job) -> Measured:
    """Execute their training and measure every epoch."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    work, path = job.work, Path(job.script)
    script: Any = import_script(path)
    config = configure(_loaded(path.parents[1] / "config" / "base.py").get_config(), work)
    measured = Measured()
    progress = Progress(measured, WARM_UP + work.iterations)
    script.FLAGS = SimpleNamespace(config=config)
    script.tqdm = progress
    script.StableDiffusion3Pipeline = loading(
        script.StableDiffusion3Pipeline, int(work.sampling["max_sequence_length"])
    )
    script.flow_grpo.rewards.multi_score = scored
    script.PeftModel.module = property(lambda model: model)

    from diffusers import AutoencoderKL

    timed = [(script, "compute_text_embeddings", ENCODING), (AutoencoderKL, "decode", DECODING)]
    calls = [(owner, name, lambda phase=phase: progress.clock.phase(phase)) for owner, name, phase in timed]
    with counted_rows(progress.counts), watched_calls(calls), contextlib.suppress(FinishedError):
        script.main(None)
    return measured


def main(job: Annotated[Path, typer.Argument(help="file of the job")]) -> None:
    """Do a job of their side and write its result."""
    read = Job.read(job)
    measure(read).write(Path(read.result))


if __name__ == "__main__":
    typer.run(main)
