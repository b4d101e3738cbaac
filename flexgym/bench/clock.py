"""Wall time and peak memory of the phases of an iteration."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch


@dataclass
class Clock:
    """Measures phases; an inner phase interrupts the outer one.

    Attributes:
        device: device that is waited for at every change of phase.
        seconds: wall time by phase.
        peaks: most bytes that were allocated on the device, by phase; empty on a CPU, which does not count them.
    """

    device: torch.device
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    peaks: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    _open: list[str] = field(default_factory=list)
    _since: float = 0.0

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what happens inside as part of a phase.

        Args:
            name: name of the phase.
        """
        self._lap()
        self._open.append(name)
        try:
            yield
        finally:
            self._lap()
            self._open.pop()

    def _lap(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._note_peak()
        self._since = time.perf_counter()

    def _note_peak(self) -> None:
        """Give the most memory since the last change of phase to the phase that ends."""
        if self.device.type != "cuda":
            return
        if self._open:
            phase = self._open[-1]
            self.peaks[phase] = max(self.peaks[phase], torch.cuda.max_memory_allocated(self.device))
        torch.cuda.reset_peak_memory_stats(self.device)
