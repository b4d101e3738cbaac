"""Run a benchmark from its options to its figures."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from flexgym.bench.machine import device_gib, device_name, matrix_rate, planned_device, versions
from flexgym.bench.measure import WARM_UP, Bench, Budget, figures
from flexgym.bench.random_weights import write_configs_alone
from flexgym.bench.result import BenchResult, DeviceFigures
from flexgym.bench.subject import agent_settings, bench_recipe, build, shown_settings
from flexgym.config import AgentSettings
from flexgym.config.recipe import apply_overrides
from flexgym.core.errors import ConfigError
from flexgym.planning.plan import Plan, make_plan
from flexgym.planning.planned import Planned, modality_of
from flexgym.rllib.process import quiet_libraries, shared_cores, start_ray

_MAX_ROUNDS = 1000


@dataclass(frozen=True)
class Options:
    """Options of a benchmark.

    Attributes:
        config: a recipe, by file or name.
        overrides: overrides of the recipe.
        seconds: time for everything; a round that has begun is finished.
        rounds: rounds at most.
        profile: list the slowest operators.
        random_weights: random weights and texts, so that nothing is downloaded.

    Raises:
        ConfigError: a number is out of range.
    """

    config: str
    overrides: Sequence[str] = ()
    seconds: float = 600.0
    rounds: int = 5
    profile: bool = False
    random_weights: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.seconds < float("inf"):
            raise ConfigError(f"--seconds {self.seconds}: expected a time above 0, such as 600")
        if not 1 <= self.rounds <= _MAX_ROUNDS:
            raise ConfigError(f"--repeats {self.rounds}: expected 1 to {_MAX_ROUNDS} rounds, such as 5")


def run_bench(options: Options, say: Callable[[str], None]) -> BenchResult:
    """Measure the training of a recipe on this machine.

    Args:
        options: options of the benchmark.
        say: shows a line of progress.

    Raises:
        ConfigError: a setting is not valid, or the recipe trains no generator.
        GeneratorError: the pipeline cannot be planned.
        CheckpointError: the weights cannot be read.
        JudgeUnavailableError: the judge of the recipe does not answer.
    """
    budget = Budget(options.rounds, time.monotonic() + options.seconds, say)
    iterations = WARM_UP + 2 * options.rounds + 1
    recipe = bench_recipe(
        options.config, options.overrides, iterations=iterations, without_files=options.random_weights
    )
    settings = agent_settings(recipe)
    source = settings.generator.source
    with contextlib.ExitStack() as stack:
        stack.enter_context(shared_cores())  # as in training
        quiet_libraries()
        if options.random_weights:
            folder = Path(stack.enter_context(TemporaryDirectory())) / "configs"
            write_configs_alone(source, modality_of(settings.environment.env), folder)
            settings = agent_settings(apply_overrides(recipe, [f"generator.source={folder}"]))
        device, plan = _planned(settings)
        if device.kind == "cuda":
            start_ray()  # RLlib asks it for the GPU
        say(f"{device.matrix_tflops:,.4g} x 10^12 operations per second in {device.dtype} on {device.name}")
        algorithm = build(settings, random_weights=options.random_weights)
        stack.callback(algorithm.stop)
        bench = Bench(algorithm, budget)
        found = bench.run(profiled=options.profile)
        return BenchResult(
            versions=versions(),
            device=device,
            settings=shown_settings(
                options.config,
                settings,
                source=source,
                sampling=vars(bench.generator.settings),
                random_weights=options.random_weights,
            ),
            warm_up=found.warm_up,
            phases=figures(found, plan),
            operators=found.operators,
        )


def _planned(settings: AgentSettings) -> tuple[DeviceFigures, Plan]:
    """Measure the rate of this machine's device, and plan the training on it."""
    planned, device = Planned.of(settings), torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rate = matrix_rate(device, planned.dtype)
    described = DeviceFigures(
        name=device_name(device)[:200],
        kind=device.type,
        gib=round(device_gib(device), 1),
        threads=torch.get_num_threads(),
        dtype=settings.generator.dtype,
        matrix_tflops=rate / 1e12,
    )
    return described, make_plan(planned, planned_device(device, planned.dtype, rate))
