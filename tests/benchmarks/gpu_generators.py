"""Measure sampling, decoding and training of generators against the rate of the device: real sizes, random weights.

    python tests/benchmarks/gpu_generators.py                        # a GPU, real sizes
    python tests/benchmarks/gpu_generators.py --small --device cpu   # does everything once, in seconds

One group is sampled (`flexgym.algorithm.rollout.collect` in the environment) and the steps of a window are replayed
(`flexgym.algorithm.replay`) and updated, as a learner does it. Nothing is downloaded: texts are random embeddings, so
text encoders are not needed, and Ray is not needed either. Matrix operations of each phase are counted on the meta
device, with those that checkpointing repeats, and their rate is compared with that of large matrix products, which
are measured first. A phase that reaches less than ``--profile-below`` of it runs once more under PyTorch's profiler,
which writes the kernels that take most time to a text file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import gymnasium as gym
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import flexgym  # noqa: E402, F401  # registers the environments
from flexgym.algorithm.kept import Rollout  # noqa: E402
from flexgym.algorithm.policy import FlowPolicy  # noqa: E402
from flexgym.algorithm.replay import replay  # noqa: E402
from flexgym.algorithm.rollout import collect  # noqa: E402
from flexgym.config import AgentSettings  # noqa: E402
from flexgym.generators import FlowGenerator  # noqa: E402
from flexgym.generators.family import Family  # noqa: E402
from flexgym.generators.folder import MODEL_INDEX, read_json  # noqa: E402
from flexgym.planning.architectures import write_configs  # noqa: E402
from flexgym.planning.phases import Work, do_once, prepare  # noqa: E402
from flexgym.planning.planned import Planned  # noqa: E402
from flexgym.planning.skeleton import build_skeleton  # noqa: E402

PHASES = ("sampling", "decoding", "update")
GIB = 2**30


@dataclass(frozen=True)
class Case:
    """A generator to measure.

    Attributes:
        source: hub id of the architecture.
        sampling: settings of sampling.
        group_size: samples of the group.
        window: trained steps.
        small: values in the configs of components that make it small.
        small_sampling: settings of sampling that make it small.
    """

    source: str
    sampling: Mapping[str, Any]
    group_size: int
    small: Mapping[str, Mapping[str, Any]]
    small_sampling: Mapping[str, Any]
    window: int = 2

    @property
    def modality(self) -> str:
        return "video" if "num_frames" in self.sampling else "image"


_PICTURE = {"num_steps": 10, "height": 512, "width": 512}
_SMALL_PICTURE = {"num_steps": 4, "height": 64, "width": 64, "max_sequence_length": 16}
_SMALL_AUTOENCODER = {"block_out_channels": [8, 8, 8, 8], "norm_num_groups": 2, "layers_per_block": 1}
CASES = {
    "Wan2.1-1.3B": Case(
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        {"num_steps": 10, "height": 240, "width": 416, "num_frames": 33, "guidance_scale": 5.0},
        group_size=6,
        small={
            "transformer": {
                "num_attention_heads": 2,
                "attention_head_dim": 12,
                "ffn_dim": 32,
                "num_layers": 1,
                "text_dim": 32,
                "freq_dim": 16,
            },
            "vae": {"base_dim": 4, "num_res_blocks": 1},
        },
        small_sampling={"num_steps": 4, "height": 32, "width": 32, "num_frames": 5, "max_sequence_length": 16},
    ),
    "FLUX.1-dev": Case(
        "black-forest-labs/FLUX.1-dev",
        {**_PICTURE, "guidance_scale": 3.5},
        group_size=8,
        small={
            "transformer": {
                "num_layers": 1,
                "num_single_layers": 1,
                "attention_head_dim": 16,
                "num_attention_heads": 2,
                "joint_attention_dim": 32,
                "pooled_projection_dim": 16,
                "axes_dims_rope": [4, 4, 8],
            },
            "vae": _SMALL_AUTOENCODER,
        },
        small_sampling=_SMALL_PICTURE,
    ),
    "SD3.5-medium": Case(
        "stabilityai/stable-diffusion-3.5-medium",
        {**_PICTURE, "guidance_scale": 1.0, "max_sequence_length": 128},
        group_size=18,
        small={
            "transformer": {
                "num_layers": 2,
                "attention_head_dim": 16,
                "num_attention_heads": 2,
                "joint_attention_dim": 32,
                "caption_projection_dim": 32,
                "pooled_projection_dim": 16,
                "pos_embed_max_size": 16,
                "dual_attention_layers": [0],
            },
            "vae": _SMALL_AUTOENCODER,
        },
        small_sampling=_SMALL_PICTURE,
    ),
    "Qwen-Image": Case(
        "Qwen/Qwen-Image",
        {**_PICTURE, "guidance_scale": 4.0, "max_sequence_length": 128},
        group_size=8,
        small={
            "transformer": {
                "num_layers": 1,
                "attention_head_dim": 16,
                "num_attention_heads": 2,
                "joint_attention_dim": 32,
                "axes_dims_rope": [8, 4, 4],
            },
            "vae": {"base_dim": 4, "num_res_blocks": 1},
        },
        small_sampling=_SMALL_PICTURE,
    ),
}


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        generator: name in `CASES`.
        phase: one of `PHASES`.
        samples: that went through it.
        seconds: wall time.
        samples_per_second: of the two above.
        tflop: 10^12 matrix operations in it.
        tflops: of those in a second.
        share: of the rate of large matrix products.
        peak_gib: most memory of the device that was allocated, GiB; None on the CPU, which does not count it.
    """

    generator: str
    phase: str
    samples: int
    seconds: float
    samples_per_second: float
    tflop: float
    tflops: float
    share: float
    peak_gib: float | None


@dataclass
class Clock:
    """Wall time and peak memory of phases; an inner phase interrupts the outer one.

    Attributes:
        device: that is waited for.
        seconds: by phase.
        peaks: bytes by phase; empty where the device does not count them.
    """

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    peaks: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _open: list[str] = field(default_factory=list)
    _since: float = 0.0

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._lap()
        self._open.append(name)
        try:
            yield
        finally:
            self._lap()
            self._open.pop()

    def reset(self) -> None:
        """Clear what was measured, such as a warm-up."""
        self.seconds.clear()
        self.peaks.clear()

    def _lap(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
            self._note_peak(self._open[-1])
        self._since = time.perf_counter()

    def _note_peak(self, phase: str) -> None:
        if self.device.type == "cuda":
            self.peaks[phase] = max(self.peaks[phase], torch.cuda.max_memory_allocated(self.device))
            torch.cuda.reset_peak_memory_stats(self.device)


class _RandomTexts(Family):
    """Encodes texts to random numbers."""

    def encode_text(self, text: str, **options: Any) -> dict[str, Tensor]:
        shapes = super().encode_text(text, **options)
        return {
            name: torch.ones(like.shape, device=self.device, dtype=self.dtype)
            if name.endswith("mask")
            else torch.randn(like.shape, device=self.device, dtype=self.dtype)
            for name, like in shapes.items()
        }


class _Benchmarked(FlowGenerator):
    """Starts a phase of the clock when something is decoded."""

    clock: Clock

    def decode(self, latents: Tensor, chunk: int | None = None) -> Any:
        with self.clock.phase("decoding"):
            return super().decode(latents, chunk)


def matrix_rate(device: torch.device) -> float:
    """Operations a second of large bfloat16 matrix products, the best of several: what 100 % means here."""
    side, repeats = (8192, 20) if device.type == "cuda" else (1024, 3)
    left, right = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    clock, best = Clock(device), 0.0
    for _ in range(5):
        clock.reset()
        with clock.phase("product"):
            for _ in range(repeats):
                left @ right
        best = max(best, 2.0 * side**3 * repeats / clock.seconds["product"])
    return best


def write_folder(case: Case, folder: Path, *, small: bool) -> None:
    """The configs of a case, without text encoders."""
    write_configs(case.source, folder)
    index = read_json(folder / MODEL_INDEX)
    kept = {name: value for name, value in index.items() if not name.startswith("text_encoder")}
    (folder / MODEL_INDEX).write_text(json.dumps(kept), encoding="utf-8")
    for component, values in case.small.items() if small else ():
        file = folder / component / "config.json"
        file.write_text(json.dumps({**read_json(file), **values}), encoding="utf-8")


def planned_of(case: Case, *, small: bool) -> Planned:
    """Return the training of one group of a case, by which its matrix operations are counted."""
    settings = {
        "environment": {"env": {"image": "FlexT2I-v0", "video": "FlexT2V-v0"}[case.modality]},
        "generator": {
            "source": case.source,
            "sampling": {**case.sampling, **(case.small_sampling if small else {})},
            "dtype": "bfloat16",
            "gradient_checkpointing": True,
        },
        "rollout": {"group_size": min(case.group_size, 3) if small else case.group_size, "prompts_per_iteration": 1},
        "algorithm": {
            "name": "grpo",
            "noise": "flow",
            "window": {"size": case.window, "first": [1, 1]},
            "clip_range": 1e-4,
        },
        "reward": {"name": "ShapesVerifier"},
    }
    return Planned.of(AgentSettings.parse(settings))


def on_device(skeleton: FlowGenerator, clock: Clock) -> FlowGenerator:
    """The generator of a skeleton, with random weights made on the device."""
    pipe = skeleton.pipe
    default = torch.get_default_dtype()
    torch.set_default_dtype(skeleton.dtype)
    try:
        with clock.device:
            for name in ("transformer", "vae"):
                pipe.register_modules(**{name: _random(getattr(pipe, name))})
    finally:
        torch.set_default_dtype(default)
    own = type(skeleton.family)
    family = type(f"RandomTexts{own.__name__}", (_RandomTexts, own), {})
    generator = _Benchmarked(pipe, family, settings=vars(skeleton.settings))
    generator.clock = clock
    return generator


def _random(like: torch.nn.Module) -> torch.nn.Module:
    """A module as its class starts it, each tensor in the precision that it has when weights are read."""
    module = type(like).from_config(like.config)
    made = module.state_dict(keep_vars=True)
    for name, tensor in like.state_dict().items():
        made[name].data = made[name].data.to(tensor.dtype)
    return module


class Training:
    """One group of a generator, sampled and trained on.

    Args:
        generator: with an adapter.
        planned: the training.
        clock: gets the phases.
    """

    def __init__(self, generator: FlowGenerator, planned: Planned, clock: Clock) -> None:
        self.generator, self.planned, self.clock = generator, planned, clock
        self.policy = FlowPolicy(generator, planned.algorithm.process)
        self.group_size = planned.settings.rollout.group_size
        self.optimizer = torch.optim.AdamW(list(generator.weights.trained().values()), lr=1e-4)
        self.envs = gym.make_vec(
            planned.settings.environment.env,
            num_envs=1,
            vectorization_mode="vector_entry_point",
            generator=generator,
            group_size=self.group_size,
            prompts=["a prompt"],
        )

    def roll_out(self) -> Rollout:
        window = self.planned.window(self.generator.settings.num_steps)
        with self.clock.phase("sampling"):
            return collect(self.envs, self.policy, window, seeds=[0])

    def decode(self) -> None:
        self.generator.decode(self.generator.initial_latents(self.group_size, 0))

    def update(self, rollout: Rollout) -> float:
        """Replay the window and take a step; the largest log ratio is 0 where the replay equals the rollout."""
        algorithm, largest = self.planned.algorithm, 0.0
        advantages = torch.linspace(-1.0, 1.0, self.group_size)[None]
        with self.clock.phase("update"):
            self.optimizer.zero_grad(set_to_none=True)
            for index in range(len(rollout.window)):
                replayed = replay(self.policy, rollout, [index], advantages=advantages, needs=algorithm.requires)
                loss = algorithm.objective(replayed)
                loss.per_sample.mean().backward()
                largest = max(largest, loss.metrics["policy/max_abs_log_ratio"].value)
            self.optimizer.step()
        return largest


def operations(work: Work, planned: Planned, steps: int) -> dict[str, float]:
    """Return the matrix operations of a group by phase."""
    return {
        "sampling": float(steps * work.step.flops),
        "decoding": planned.settings.rollout.group_size / work.decoded * work.decoding.flops,
        "update": float(len(planned.window(steps)) * work.replay.flops),
    }


def measure(name: str, *, device: torch.device, small: bool, rate: float, options: argparse.Namespace) -> list[Row]:
    """Measure one generator and return its rows."""
    planned = planned_of(CASES[name], small=small)
    with TemporaryDirectory() as text:
        folder = Path(text)
        write_folder(CASES[name], folder, small=small)
        counted = build_skeleton(folder, planned.dtype, planned.sampling)
        prepare(counted, planned)
        flops = operations(do_once(counted, planned), planned, counted.settings.num_steps)
        clock = Clock(device)
        generator = on_device(build_skeleton(folder, planned.dtype, planned.sampling), clock)
    prepare(generator, planned)
    training = Training(generator, planned, clock)
    first = training.roll_out()
    unequal = training.update(first)
    if unequal:
        print(f"{name}: replay is not the rollout, largest log ratio {unequal:.3g}", file=sys.stderr)
    clock.reset()  # kernels are chosen and memory is allocated
    training.update(training.roll_out())
    rows = [_row(name, phase, planned, clock=clock, flops=flops[phase], rate=rate) for phase in PHASES]
    for row in rows:
        if row.share < options.profile_below:
            _profile(training, row, options.out.parent, first=first)
    return rows


def _row(name: str, phase: str, planned: Planned, *, clock: Clock, flops: float, rate: float) -> Row:
    samples, seconds = planned.settings.rollout.group_size, clock.seconds[phase]
    return Row(
        generator=name,
        phase=phase,
        samples=samples,
        seconds=seconds,
        samples_per_second=samples / seconds,
        tflop=flops / 1e12,
        tflops=flops / seconds / 1e12,
        share=flops / seconds / rate,
        peak_gib=clock.peaks[phase] / GIB if phase in clock.peaks else None,
    )


def _profile(training: Training, row: Row, folder: Path, *, first: Rollout) -> None:
    """Write the kernels that take most time of a phase."""
    work: dict[str, Callable[[], Any]] = {
        "sampling": training.roll_out,
        "decoding": training.decode,
        "update": lambda: training.update(first),
    }
    cuda = training.clock.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as seen:
        work[row.phase]()
    table = seen.key_averages().table(
        sort_by="self_device_time_total" if cuda else "self_cpu_time_total", row_limit=20, max_name_column_width=90
    )
    file = folder / f"profile_{row.generator}_{row.phase}.txt"
    file.write_text(f"{row.generator}, {row.phase}: {row.share:.1%} of the matrix rate\n{table}\n", encoding="utf-8")


def markdown(rows: list[Row], *, device: str, rate: float) -> str:
    """Return the table, with the rate that it is measured against."""
    lines = [
        f"{device}: bfloat16 matrix products at {rate / 1e12:.1f} TFLOPS are 100 %",
        "",
        "| generator | phase | samples | seconds | samples/s | TFLOP | TFLOPS | share | peak GiB |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        peak = "" if row.peak_gib is None else f"{row.peak_gib:.1f}"
        lines.append(
            f"| {row.generator} | {row.phase} | {row.samples} | {row.seconds:.2f} | {row.samples_per_second:.2f} |"
            f" {row.tflop:.4g} | {row.tflops:.4g} | {row.share:.1%} | {peak} |"
        )
    return "\n".join(lines)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="small modules: whether it works, not how fast")
    parser.add_argument("--only", nargs="*", choices=CASES, default=list(CASES), help="these generators alone")
    parser.add_argument("--out", type=Path, default=Path("gpu_generators.json"), help="figures, and beside it profiles")
    parser.add_argument("--profile-below", type=float, default=None, help="share; by default 0.45 on a GPU, else none")
    options = parser.parse_args(arguments)
    if options.profile_below is None:
        options.profile_below = 0.45 if options.device.startswith("cuda") else 0.0
    return options


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    device = torch.device(options.device)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    rate = matrix_rate(device)
    rows = []
    for name in options.only:
        rows += measure(name, device=device, small=options.small, rate=rate, options=options)
        if device.type == "cuda":
            torch.cuda.empty_cache()
    title = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(markdown(rows, device=title, rate=rate))
    figures = {"device": title, "torch": torch.__version__, "matrix_flops": rate, "small": options.small}
    options.out.write_text(json.dumps({**figures, "rows": [asdict(row) for row in rows]}, indent=2), encoding="utf-8")
    if "ray" in sys.modules:
        raise RuntimeError("expected generators to work without Ray, but importing them has imported it")


if __name__ == "__main__":
    main()
