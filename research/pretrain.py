"""Training of the shipped small checkpoints: ``python -m research.pretrain t2i`` (or ``t2v``).

Both are real flow-matching models. A share of their training captions is wrong in one composition, as captions of the
web are wrong, so the base is mediocre on purpose: it draws sharp shapes, and often not those asked for.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flexgym.core.files import held_folder
from flexgym.generators.channels import normalize
from flexgym.shapes.captions import Spec
from flexgym.shapes.sampling import draw_caption, wrong_spec
from research import modules
from research.autoencoder import Stage, draw, draw_specs, to_unit, train_stages
from research.muon import muon_and_adamw
from research.states import recover_state, replace_state

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FlowStage(Stage):
    """One stage of flow matching.

    Attributes:
        wrong_share: share of the captions that describe another composition of the same category.
        crowded: share of the scenes that is drawn from categories of several things alone.
    """

    wrong_share: float = 0.1
    crowded: float = 0.0


@dataclass(frozen=True)
class Recipe:
    """How one checkpoint is made: the stages of its autoencoder one after the other, then those of the flow."""

    kind: str
    autoencoder: tuple[Stage, ...]
    flow: tuple[FlowStage, ...]
    scenes: int


WATCH_INTERVAL = 1000
"""Steps of flow matching after which it is saved."""
TRAINING_SHIFT = 5.0
"""What a caption decides, it decides at high noise levels: the latents are so plain that at 0.9 all is settled."""
RECIPES = {
    "t2i": Recipe(
        "image",
        (Stage(1200, 32, 2e-3), Stage(1000, 32, 1e-3, decoder_only=True)),
        (FlowStage(12000, 64, 8e-3), FlowStage(8000, 64, 6e-3)),
        40000,
    ),
    "t2v": Recipe(
        "video",
        (Stage(2200, 4, 2e-3), Stage(2400, 4, 2e-3), Stage(4000, 4, 1.5e-3, decoder_only=True)),
        (
            FlowStage(18000, 32, 1.2e-2),
            FlowStage(12000, 32, 1e-2),
            FlowStage(24000, 32, 1e-2, wrong_share=0.0, crowded=0.75),
        ),
        40000,
    ),
}
BUILDERS: dict[str, Callable[[], Any]] = {"t2i": modules.build_t2i, "t2v": modules.build_t2v}


@torch.no_grad()
def encode_all(autoencoder: Any, pixels: Tensor) -> Tensor:
    """Encode samples to latents, before any scaling."""
    return torch.cat([autoencoder.encode(to_unit(chunk)).latent_dist.mean for chunk in pixels.split(64)])


def scenes(
    autoencoder: Any, kind: str, count: int, *, seed: int, folder: Path, crowded: float = 0.0
) -> tuple[list[Spec], Tensor]:
    """Draw scenes and encode them, or read the latents that an earlier call kept.

    Args:
        autoencoder: of the pipeline.
        kind: ``"image"`` or ``"video"``.
        count: number of scenes.
        seed: of all draws.
        folder: where the latents are kept.
        crowded: share of the scenes that is drawn from categories of several things alone.

    Returns:
        What each scene was drawn from, and the latents before any scaling.

    Raises:
        ValueError: latents of another number of scenes were kept.
    """
    rng, name = np.random.default_rng(seed), "latents.safetensors"
    if folder.exists():
        kept = load_file(folder / name)["latents"]
        if len(kept) != count:
            raise ValueError(
                f"{folder}: expected the latents of {count} scenes, got {len(kept)}: name another --out, or the same"
                " --speed"
            )
        return draw_specs(rng, kind, count, crowded=crowded), kept
    drawn, pixels = draw(rng, kind, count, crowded=crowded)
    latents = encode_all(autoencoder, pixels)
    with held_folder(folder) as partial:
        save_file({"latents": latents.contiguous()}, partial / name)
        partial.rename(folder)
    return drawn, latents


def set_latent_scale(autoencoder: Any, latents: Tensor) -> None:
    """Write mean and deviation of latents into the autoencoder's config."""
    if latents.ndim == 4:
        shift, scale = latents.mean().item(), latents.std().item()
        autoencoder.register_to_config(shift_factor=shift, scaling_factor=1.0 / scale)
    else:
        mean, std = latents.mean((0, 2, 3, 4)).tolist(), latents.std((0, 2, 3, 4)).tolist()
        autoencoder.register_to_config(latents_mean=mean, latents_std=std)


def normalized(autoencoder: Any, latents: Tensor) -> Tensor:
    """Scale latents as the autoencoder's config says."""
    if latents.ndim == 5:
        return normalize(autoencoder, latents)
    return (latents - autoencoder.config.shift_factor) * autoencoder.config.scaling_factor


def velocity(pipe: Any, latents: Tensor, sigma: Tensor, *, captions: list[str]) -> Tensor:
    """Compute the velocity with gradients through the text encoders; each caption is encoded once."""
    unique = {caption: index for index, caption in enumerate(dict.fromkeys(captions))}
    rows = torch.tensor([unique[caption] for caption in captions])
    limits = {"do_classifier_free_guidance": False}
    if latents.ndim == 4:
        embeds, _, pooled, _ = pipe.encode_prompt(list(unique), None, None, max_sequence_length=1, **limits)
        extra = {"pooled_projections": pooled[rows]}
    else:
        embeds, _ = pipe.encode_prompt(list(unique), max_sequence_length=modules.TOKENS, **limits)
        extra = {}
    return pipe.transformer(
        hidden_states=latents, timestep=sigma * 1000.0, encoder_hidden_states=embeds[rows], return_dict=False, **extra
    )[0]


def flow_parts(pipe: Any) -> nn.ModuleDict:
    """Return the modules that flow matching trains: transformer and text encoders."""
    names = ("transformer", "text_encoder", "text_encoder_2")
    return nn.ModuleDict({name: part for name in names if (part := getattr(pipe, name, None)) is not None})


@dataclass
class FlowData:
    """Normalized latents with the spec that each was drawn from."""

    latents: Tensor
    specs: list[Spec]
    wrong_share: float

    def batch(self, rng: np.random.Generator, size: int) -> tuple[Tensor, list[str]]:
        """Draw latents and captions, a share of which describes another composition of the same category."""
        rows = rng.integers(len(self.specs), size=size)
        wrong = rng.random(size) < self.wrong_share
        said = [
            wrong_spec(rng, self.specs[row]) if bad else self.specs[row] for row, bad in zip(rows, wrong, strict=True)
        ]
        return self.latents[torch.from_numpy(rows)], [draw_caption(rng, spec) for spec in said]


class FlowTraining:
    """Flow matching (arXiv 2210.02747) with logit-normal noise levels, shifted as the scheduler does.

    What a step draws follows from seed and step alone, so a training that was saved and restored continues as if it had
    never stopped. The learning rate warms up, then decays linearly.

    Args:
        pipe: an untrained pipeline; after `run` it holds the EMA of the trained weights.
        data: latents and captions to train on.
        stage: length and step size.
        seed: of all draws.

    Attributes:
        step: number of steps taken.
        average: EMA of the trained modules.
    """

    def __init__(self, pipe: Any, data: FlowData, stage: Stage, *, seed: int) -> None:
        self._pipe, self._data, self._stage, self._seed = pipe, data, stage, seed
        self._parts = flow_parts(pipe)
        self.average = deepcopy(self._parts).requires_grad_(False)
        self._optimizers = muon_and_adamw(
            self._parts, stage.learning_rate, inside=("transformer_blocks", "blocks", "block")
        )
        self._base_rates = [optimizer.param_groups[0]["lr"] for optimizer in self._optimizers]
        self.step, self._smooth = 0, 1.0

    def run(self, watch: Callable[[FlowTraining], None]) -> None:
        """Take all remaining steps.

        Args:
            watch: called every `WATCH_INTERVAL` steps.
        """
        started = time.monotonic()
        while self.step < self._stage.steps:
            loss = self._take_step()
            self._smooth += 0.01 * (loss - self._smooth)
            if self.step % 250 == 0:
                logger.info("flow %d loss %.4f, %.0f s", self.step, self._smooth, time.monotonic() - started)
            self.step += 1
            if self.step % WATCH_INTERVAL == 0:
                watch(self)
        self._parts.load_state_dict(self.average.state_dict())

    def save(self, folder: Path) -> None:
        """Write weights, EMA and optimizers into a folder, which takes the place of an earlier one when it is whole."""
        state = {
            "step": self.step,
            "smooth": self._smooth,
            "parts": dict(self._parts.state_dict()),
            "average": dict(self.average.state_dict()),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
        }
        replace_state(folder, state)

    def restore(self, folder: Path) -> None:
        """Restore what `save` wrote; without it, nothing changes."""
        state = recover_state(folder)
        if state is None:
            return
        self.step, self._smooth = state["step"], state["smooth"]
        self._parts.load_state_dict(state["parts"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def _take_step(self) -> float:
        """Take one step and return its loss."""
        self._set_rates()
        torch.manual_seed(1_000_003 * self._seed + self.step)
        clean, captions = self._data.batch(np.random.default_rng([self._seed, self.step]), self._stage.batch_size)
        sigma = torch.sigmoid(torch.randn(len(clean)))
        sigma = TRAINING_SHIFT * sigma / (1.0 + (TRAINING_SHIFT - 1.0) * sigma)
        noise, level = torch.randn_like(clean), sigma.view(-1, *[1] * (clean.ndim - 1))
        predicted = velocity(self._pipe, (1.0 - level) * clean + level * noise, sigma, captions=captions)
        loss = (predicted - (noise - clean)).square().mean()
        self._parts.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self._parts.parameters(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
        with torch.no_grad():
            decay = min(0.999, (self.step + 1) / (self.step + 10))
            torch._foreach_lerp_(list(self.average.parameters()), list(self._parts.parameters()), 1.0 - decay)
        return loss.item()

    def _set_rates(self) -> None:
        steps = self._stage.steps
        rate = min(1.0, (self.step + 1) / 300, 1.05 * (steps - self.step) / steps)
        for optimizer, base in zip(self._optimizers, self._base_rates, strict=True):
            optimizer.param_groups[0]["lr"] = base * rate


def save(pipe: Any, name: str, folder: Path) -> None:
    """Write a pipeline folder with its sampling defaults."""
    pipe.save_pretrained(folder, safe_serialization=True)
    (folder / "generation_config.json").write_text(json.dumps(modules.GENERATION[name], indent=2) + "\n")
    for path in (folder / "model_index.json", *folder.glob("*/config.json")):
        # a path of the machine that made the checkpoint says nothing to anyone else
        values = json.loads(path.read_text())
        values.pop("_name_or_path", None)
        path.write_text(json.dumps(values, indent=2) + "\n")


def main(
    name: Annotated[str, typer.Argument(help="t2i or t2v")],
    *,
    out: Annotated[Path, typer.Option(help="where the pipeline folder goes")] = Path("runs/pretrain"),
    seed: int = 0,
    threads: int = 1,
    speed: Annotated[float, typer.Option(help="divide all lengths by this, to try the script out")] = 1.0,
    compiled: Annotated[
        bool,
        typer.Option("--compile", help="use torch.compile: a fifth to two fifths less time per step"),
    ] = False,
) -> None:
    """Make a checkpoint from nothing; the same command continues one that was stopped, from what it saved last."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    recipe, pipe = RECIPES[name], BUILDERS[name]()
    autoencoder = out / f"{name}_autoencoder"
    if autoencoder.exists():
        pipe.vae = type(pipe.vae).from_pretrained(autoencoder)
    else:
        out.mkdir(parents=True, exist_ok=True)
        state = out / f"{name}_autoencoder_state"
        stages = [stage.shorter(speed) for stage in recipe.autoencoder]
        train_stages(pipe.vae, recipe.kind, stages, seed=seed, folder=state, compiled=compiled)
        with held_folder(autoencoder) as partial:
            pipe.vae.save_pretrained(partial)
            partial.rename(autoencoder)
        shutil.rmtree(state, ignore_errors=True)
    for number in range(len(recipe.flow)):
        train_flow(pipe, name, out, number=number, seed=seed, speed=speed, compiled=compiled)


def train_flow(
    pipe: Any, name: str, out: Path, *, number: int, seed: int, speed: float, compiled: bool = False
) -> None:
    """Train through one stage of flow matching on scenes of its own, or load what it made before.

    The scenes of the first stage also decide the scale of the latents.

    Args:
        pipe: pipeline with a trained autoencoder and what the stage before made.
        name: of the recipe.
        out: folder for the pipeline, for one copy of it at the end of each stage, and for the state of training.
        number: of the stage.
        seed: of the checkpoint.
        speed: divides the length.
        compiled: run the transformer through ``torch.compile``.
    """
    recipe, done, state = RECIPES[name], out / f"{name}_flow{number}", out / f"{name}_state{number}"
    kept_latents = out / f"{name}_latents{number}"
    if done.exists():
        kept = {part: None for part, value in pipe.components.items() if value is None}
        made = type(pipe).from_pretrained(done, **kept)
        pipe.vae = made.vae
        flow_parts(pipe).load_state_dict(flow_parts(made).state_dict())
        return
    pipe.vae.eval().requires_grad_(False)
    own = seed + 1000 * number
    torch.manual_seed(own + 1)
    stage = recipe.flow[number].shorter(speed)
    drawn, latents = scenes(
        pipe.vae,
        recipe.kind,
        int(recipe.scenes / speed),
        seed=own + 1,
        folder=kept_latents,
        crowded=stage.crowded,
    )
    if not number:
        set_latent_scale(pipe.vae, latents)
    data = FlowData(normalized(pipe.vae, latents), drawn, stage.wrong_share)
    training = FlowTraining(pipe, data, stage, seed=own)
    training.restore(state)
    if compiled:
        pipe.transformer.compile(dynamic=False)

    def watch(training: FlowTraining) -> None:
        save(type(pipe)(**{**pipe.components, **dict(training.average.items())}), name, out / name)
        training.save(state)
        logger.info("stage %d: saved after %d steps", number, training.step)

    training.run(watch)
    save(pipe, name, out / name)
    with held_folder(done) as partial:
        save(pipe, name, partial)
        partial.rename(done)
    for folder in (state, kept_latents):
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    typer.run(main)
