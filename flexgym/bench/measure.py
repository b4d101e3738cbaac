"""Measure a training: warm up, run rounds within a budget of time, and set the figures beside the plan."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from flexgym.algorithm.replay import REWARD_GRADIENT
from flexgym.bench.clock import Clock
from flexgym.bench.hooks import DATA, DECODING, ENCODING, GRADIENT, SAMPLING, UPDATE, HeldRewards, watched_phases
from flexgym.bench.profiling import Profiled
from flexgym.bench.result import Operator, PhaseFigures
from flexgym.core.units import GIB
from flexgym.generators.base import FlowGenerator
from flexgym.planning.phases import bytes_of, tensors_of
from flexgym.planning.plan import Plan
from flexgym.rllib.algorithm import FlowAlgorithm
from flexgym.rllib.learner import FlowLearner

JUDGE, ITERATION = "judge", "iteration"
PHASES = (DATA, ENCODING, SAMPLING, DECODING, GRADIENT, JUDGE, UPDATE, ITERATION)
"""Phases in the order of a table; `ITERATION` is all of it as training does it, with the judge beside the rest."""
WARM_UP = 2
_LISTED = 12


@dataclass(frozen=True)
class Budget:
    """How long to measure.

    Attributes:
        rounds: rounds at most, of two iterations each.
        deadline: time by `time.monotonic` after which no round begins.
        say: shows a line of progress.
    """

    rounds: int
    deadline: float
    say: Callable[[str], None]

    def has_room(self, seconds: float) -> bool:
        """Return whether something that takes some seconds would end before the deadline."""
        return time.monotonic() + seconds < self.deadline


@dataclass
class Measurements:
    """Hold what the rounds showed.

    Attributes:
        seconds: time of each round by phase.
        peaks: most bytes by phase.
        operators: slowest operators, where they were asked for.
        warm_up: iterations before the first round.
    """

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    peaks: dict[str, int] = field(default_factory=dict)
    operators: tuple[Operator, ...] = ()
    warm_up: int = 0


class Bench:
    """Measures an algorithm that was built in this process.

    Args:
        algorithm: algorithm with its learner.
        budget: how long to measure.
    """

    def __init__(self, algorithm: FlowAlgorithm, budget: Budget) -> None:
        self.algorithm, self.budget = algorithm, budget
        self.learner: FlowLearner = algorithm.on_first_learner(lambda learner: learner)
        self.found = Measurements()
        self._rewards = HeldRewards()

    @property
    def generator(self) -> FlowGenerator:
        """The generator that trains."""
        return self.learner.generator

    def run(self, *, profiled: bool) -> Measurements:
        """Warm up and measure.

        Args:
            profiled: list the slowest operators as well.
        """
        self._warm_up()
        self._rounds()
        cuda = self.generator.device.type == "cuda"
        if profiled or not cuda:
            self._profile(listed=profiled, memory=not cuda)
        return self.found

    def _warm_up(self) -> None:
        """Run iterations that do not count: kernels are chosen, memory is allocated, the judge starts."""
        while self.found.warm_up < WARM_UP:
            started = time.monotonic()
            with self._rewards.record():
                self.algorithm.train()
            self.found.warm_up += 1
            took = time.monotonic() - started
            self.budget.say(f"warm-up {self.found.warm_up} of {WARM_UP}: {took:.2f} s")
            if not self.budget.has_room(3 * took):
                return

    def _rounds(self) -> None:
        for number in range(1, self.budget.rounds + 1):
            started = time.monotonic()
            self._apart()
            self._together()
            took = time.monotonic() - started
            self.budget.say(f"round {number} of {self.budget.rounds}: {took:.2f} s")
            if number < self.budget.rounds and not self.budget.has_room(took):
                self.budget.say("no time is left for more rounds: see --seconds")
                return

    def _apart(self) -> None:
        """Run an iteration whose rewards are answered at once, then the judge alone on its samples."""
        clock = Clock(self.generator.device)
        with self._rewards.hold(), watched_phases(clock.phase):
            self.algorithm.train()
        asked = self._rewards.asked
        if asked and REWARD_GRADIENT not in self.algorithm.config.algorithm.requires:
            optimized = asked[0][0]
            with clock.phase(JUDGE):
                for reward, groups in asked:
                    if reward is optimized:
                        reward.guarded(groups)
        self._keep(clock)

    def _together(self) -> None:
        """Run an iteration as training does."""
        clock = Clock(self.generator.device)
        with clock.phase(ITERATION):
            self.algorithm.train()
        self._keep(clock)

    def _keep(self, clock: Clock) -> None:
        for phase, seconds in clock.seconds.items():
            self.found.seconds[phase].append(seconds)
        for phase, peak in clock.peaks.items():
            self.found.peaks[phase] = max(self.found.peaks.get(phase, 0), peak)

    def _profile(self, *, listed: bool, memory: bool) -> None:
        """Run one more iteration under the profiler."""
        profiled = Profiled(self.generator.device, memory=memory)
        before = bytes_of(self._resident()) if memory else 0
        with self._rewards.hold(), profiled.watch():
            self.algorithm.train()
        if memory:
            self.found.peaks |= {phase: before + peak for phase, peak in profiled.peaks().items()}
        if listed:
            self.found.operators = tuple(profiled.slowest(_LISTED))
        self.budget.say("one iteration under the profiler")

    def _resident(self) -> list[Tensor]:
        """Return the tensors that are there between two iterations, as a plan counts them."""
        optimizers = [optimizer for _, optimizer in self.learner.get_optimizers_for_module()]
        state = [value for each in optimizers for entry in each.state.values() for value in entry.values()]
        gradients = [each.grad for each in self.generator.weights.trained().values()]
        held = [each for each in (*state, *gradients) if isinstance(each, Tensor)]
        return [*tensors_of(self.generator), *self.generator.text.cached(), *held]


def figures(found: Measurements, plan: Plan) -> tuple[PhaseFigures, ...]:
    """Set measurements beside the plan of the same training.

    Args:
        found: measurements.
        plan: plan of an iteration.
    """
    planned = {phase.name: phase for phase in plan.phases}
    flops = {name: phase.flops for name, phase in planned.items() if phase.flops}
    flops[ITERATION] = sum(flops.values())
    memory = {name: phase.bytes for name, phase in planned.items()} | {ITERATION: plan.peak.bytes}
    return tuple(
        PhaseFigures(
            name=name,
            samples=plan.planned.samples,
            seconds=tuple(found.seconds[name]),
            tflop=flops[name] / 1e12 if name in flops else None,
            peak_gib=_gib(found.peaks, name),
            planned_gib=_gib(memory, name),
        )
        for name in PHASES
        if name in found.seconds
    )


def _gib(sizes: Mapping[str, Any], name: str) -> float | None:
    return round(sizes[name] / GIB, 4) if name in sizes else None


def device_of(algorithm: FlowAlgorithm) -> torch.device:
    """Return the device of the learner of an algorithm that was built in this process."""
    return algorithm.on_first_learner(lambda learner: learner.generator.device)
