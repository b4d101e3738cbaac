"""One iteration under PyTorch's profiler: the slowest operators, and on a CPU the memory of each phase."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.profiler import ProfilerActivity, profile, record_function

from flexgym.bench.hooks import watched_calls, watched_phases
from flexgym.bench.result import Operator
from flexgym.rllib.learner import FlowLearner

Part = Literal["rollout", "update"]
_MARK = "flexgym.bench/"
_LONGEST = 200


class Profiled:
    """Profiles of the rollout and of the update of one iteration.

    Args:
        device: device of the learner.
        memory: follow the memory of the CPU as well.
    """

    def __init__(self, device: torch.device, *, memory: bool) -> None:
        self._cuda = device.type == "cuda"
        self._memory = memory
        self._open = contextlib.ExitStack()
        self._profiles: dict[Part, Any] = {}

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Profile the iteration inside."""
        calls = [
            (FlowLearner, "feed", self._rollout),
            (FlowLearner, "roll_out", self._rollout),
            (FlowLearner, "replay_scored", self._begin_update),
            (FlowLearner, "take_steps", self._end_update),
        ]
        with watched_phases(lambda name: record_function(_MARK + name)), watched_calls(calls):
            yield

    def slowest(self, rows: int) -> list[Operator]:
        """Return the operators, or on a GPU the kernels, that take most time.

        Args:
            rows: most entries of each part.
        """
        return [each for part in self._profiles for each in self._slowest(part)[:rows]]

    def peaks(self) -> dict[str, int]:
        """Return the most bytes of each phase that PyTorch's allocator of the CPU held beyond those at the start."""
        live, peaks = 0, dict[str, int]()
        for seen in self._profiles.values():
            live = _follow(seen.profiler.kineto_results.events(), live, peaks)
        return peaks

    def _profile(self) -> Any:
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._cuda else [])]
        return profile(activities=activities, profile_memory=self._memory, acc_events=True)

    @contextlib.contextmanager
    def _rollout(self) -> Iterator[None]:
        with self._profile() as self._profiles["rollout"]:
            yield

    @contextlib.contextmanager
    def _begin_update(self) -> Iterator[None]:
        self._profiles["update"] = self._open.enter_context(self._profile())
        yield

    @contextlib.contextmanager
    def _end_update(self) -> Iterator[None]:
        with self._open:
            yield

    def _slowest(self, part: Part) -> list[Operator]:
        kind = DeviceType.CUDA if self._cuda else DeviceType.CPU
        events = [each for each in self._profiles[part].key_averages() if _is_work(each, kind)]
        times = [(_own_time(each, kind), each) for each in events]
        total = sum(time for time, _ in times) or 1.0
        found = [
            Operator(part=part, name=each.key[:_LONGEST], calls=each.count, seconds=time / 1e6, share=time / total)
            for time, each in times
            if time > 0
        ]
        return sorted(found, key=lambda each: -each.seconds)


def _is_work(event: Any, kind: DeviceType) -> bool:
    return event.device_type == kind and not event.key.startswith((_MARK, "[memory]"))


def _own_time(event: Any, kind: DeviceType) -> float:
    """Return microseconds, without those of the operators that it calls."""
    return float(event.self_device_time_total if kind == DeviceType.CUDA else event.self_cpu_time_total)


def _follow(events: Any, live: int, peaks: dict[str, int]) -> int:
    """Follow the allocations of a profile, and give the most bytes to the innermost phase that was open.

    Args:
        events: events of the profile.
        live: bytes at its start.
        peaks: gets the most bytes by phase.

    Returns:
        Bytes at its end.
    """
    order: list[tuple[int, str, int]] = []
    for event in events:
        name, start = event.name(), event.start_ns()
        if name == "[memory]" and event.device_type() == DeviceType.CPU:
            order.append((start, "", event.nbytes()))
        elif name.startswith(_MARK):
            phase = name.removeprefix(_MARK)
            order += [(start, phase, 1), (start + event.duration_ns(), phase, -1)]
    opened: list[str] = []
    for _, phase, change in sorted(order, key=lambda each: each[0]):
        if not phase:
            live += change
        elif change > 0:
            opened.append(phase)
        elif phase in opened:
            opened.remove(phase)
        if opened:
            peaks[opened[-1]] = max(peaks.get(opened[-1], 0), live)
    return live
