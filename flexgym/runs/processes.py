"""Programs in processes of their own, several at a time: their logs, how they end, and what they cost."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import psutil

from flexgym.core.errors import ConfigError
from flexgym.core.files import open_writing
from flexgym.reward.process import THREAD_VARIABLES
from flexgym.runs.interrupt import GracefulInterrupt

_LONGEST_PROBLEM = 500
_POLL_S = 0.2
_EXCEPTION = re.compile(r"[\w.]*(?:Error|Exception|Exit)\b")


@dataclass(frozen=True)
class Ended:
    """A process that has ended.

    Attributes:
        status: exit status.
        words: its error, or the last line of its log.
        wall_s: seconds from start to end.
        cpu_s: processor seconds of it and the processes that it started, as far as they were seen.
        peak_bytes: largest resident memory of all of them together, looked at five times a second.
    """

    status: int
    words: str
    wall_s: float
    cpu_s: float
    peak_bytes: int


@dataclass(frozen=True)
class Workplace:
    """Where a job runs its programs.

    Attributes:
        interrupt: whose first signal is passed on to the programs at work.
        stop: set when they must end at once.
        cores: numbers of the processor cores that they may use, with one thread on each; empty leaves all to them.
    """

    interrupt: GracefulInterrupt
    stop: threading.Event
    cores: Sequence[int] = ()

    @property
    def is_closing(self) -> bool:
        """Return whether nothing more is to be started."""
        return self.stop.is_set() or self.interrupt.requested

    def run(self, command: Sequence[str], log: Path) -> Ended:
        """Run a program to its end, and append what it writes to a log."""
        environment = {**os.environ, **(dict.fromkeys(THREAD_VARIABLES, str(len(self.cores))) if self.cores else {})}
        began = time.monotonic()
        with open_writing(log, append=True) as file:
            start = file.tell()
            # In a group of its own, since a signal to the group of this process is passed on here.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True, env=environment
            )
            usage = _Usage(process.pid, self.cores)
            status = self._wait(process, usage)
        seconds = time.monotonic() - began
        return Ended(status, _last_words(log, start), seconds, cpu_s=usage.cpu_s, peak_bytes=usage.peak_bytes)

    def _wait(self, process: subprocess.Popen[bytes], usage: _Usage) -> int:
        """Wait for a process and return its exit status; pass on the signals that this process gets."""
        passed_on = 0
        while True:
            usage.look()
            try:
                return process.wait(timeout=_POLL_S)
            except subprocess.TimeoutExpired:
                due = 2 if self.stop.is_set() else int(self.interrupt.requested)
                if passed_on < due:
                    passed_on += 1
                    process.send_signal(self.interrupt.signal or signal.SIGINT)


Job = Callable[[Workplace], None]


def work_off(jobs: Sequence[Job], *, parallel: int = 1, cores: int = 0) -> bool:
    """Do jobs, some at a time. After a signal, programs at work get it and no more jobs are started.

    Args:
        jobs: each is called in a thread with its place.
        parallel: jobs at a time.
        cores: processor cores that each has for itself; 0 leaves all to each.

    Returns:
        True if no signal came.

    Raises:
        ConfigError: the machine has fewer cores.
    """
    places: SimpleQueue[Sequence[int]] = SimpleQueue()
    for place in _shares(parallel, cores):
        places.put(place)
    stop = threading.Event()

    def at_a_place(job: Job) -> None:
        place = places.get()
        try:
            workplace = Workplace(interrupt, stop, place)
            if not workplace.is_closing:
                job(workplace)
        finally:
            places.put(place)

    with GracefulInterrupt() as interrupt, ThreadPoolExecutor(parallel) as pool:
        try:
            for done in as_completed([pool.submit(at_a_place, job) for job in jobs]):
                done.result()
        finally:
            stop.set()
    return not interrupt.requested


def _shares(parallel: int, cores: int) -> list[Sequence[int]]:
    """Return the cores of each of so many places."""
    if not cores:
        return [()] * parallel
    usable = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    if parallel * cores > len(usable):
        raise ConfigError(
            f"expected at most {len(usable)} cores for {parallel} at a time with {cores} each, since this process may"
            f" use {len(usable)}: take --parallel {max(1, len(usable) // cores)}"
        )
    return [usable[index * cores : (index + 1) * cores] for index in range(parallel)]


class _Usage:
    """Memory and processor time of a process and its descendants, looked at from time to time."""

    def __init__(self, pid: int, cores: Sequence[int]) -> None:
        self.peak_bytes = 0
        self._seconds: dict[tuple[int, float], float] = {}
        self._process: psutil.Process | None = None
        with contextlib.suppress(psutil.Error):
            self._process = psutil.Process(pid)
            if cores and hasattr(self._process, "cpu_affinity"):  # macOS has none
                self._process.cpu_affinity(list(cores))

    @property
    def cpu_s(self) -> float:
        """Processor seconds so far, those of processes that have ended included."""
        return sum(self._seconds.values())

    def look(self) -> None:
        """Note memory and processor seconds of now."""
        if self._process is None:
            return
        total = 0
        with contextlib.suppress(psutil.Error):
            for each in (self._process, *self._process.children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    times = each.cpu_times()
                    self._seconds[each.pid, each.create_time()] = times.user + times.system
                    total += each.memory_info().rss
        self.peak_bytes = max(self.peak_bytes, total)


def _last_words(log: Path, start: int) -> str:
    """Return the error of a process: from its last ``error:`` on, else its last exception, else its last line."""
    lines = [line.strip() for line in log.read_bytes()[start:].decode(errors="replace").splitlines() if line.strip()]
    errors = [number for number, line in enumerate(lines) if line.startswith("error:")]
    raised = [line for line in lines if _EXCEPTION.match(line)]
    last = lines[errors[-1] :] if errors else (raised or lines)[-1:]
    return " ".join(last).removeprefix("error:").strip()[:_LONGEST_PROBLEM]
