"""A tracker on a thread of its own: however slow or broken it is, training neither waits for it nor ends with it."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from flexgym.core.images import Pixels
from flexgym.core.text import one_line
from flexgym.runs.trackers.base import Table, Tracker

_WAITING = 256  # entries
_FAILURES = 3
PATIENCE_S = 60.0
"""Seconds that a run waits at its end for what its trackers have not taken yet."""

Entry = Callable[[Tracker], None]


class BackgroundTracker(Tracker):
    """Hands entries to a tracker in the order in which they come, on a thread of its own.

    What the tracker raises is reported once, in `news`. After three failures in a row it gets nothing more. Entries
    that it has no time for are dropped once 256 of them wait.

    Args:
        name: of the tracker, for reports.
        connect: makes the tracker; called on the thread, and again for the next entry where it failed.
    """

    def __init__(self, name: str, connect: Callable[[], Tracker]) -> None:
        self.name = name
        self._connect = connect
        self._tracker: Tracker | None = None
        self._waiting: queue.Queue[Entry | None] = queue.Queue(_WAITING)
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._failures = self._lost = 0
        self._reported = self._ending = self._closed = False
        self._connected = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"tracker-{name}", daemon=True)
        self._thread.start()

    def wait_connected(self, seconds: float) -> None:
        """Wait until the tracker has connected or failed to, at most for some seconds."""
        self._connected.wait(seconds)

    def news(self) -> list[str]:
        """Return what a person should know and has not been returned before, such as where the run is shown."""
        found = []
        while not self._news.empty():
            found.append(self._news.get())
        return found

    def metrics(self, row: Mapping[str, Any], iteration: int) -> None:
        """Hand over a row."""
        copy = dict(row)
        self._hand_over(lambda tracker: tracker.metrics(copy, iteration))

    def image(self, name: str, image: Pixels, iteration: int) -> None:
        """Hand over an image."""
        self._hand_over(lambda tracker: tracker.image(name, image, iteration))

    def video(self, name: str, frames: Pixels, iteration: int, *, fps: float = 8.0) -> None:
        """Hand over a video."""
        self._hand_over(lambda tracker: tracker.video(name, frames, iteration, fps=fps))

    def table(self, name: str, table: Table, iteration: int) -> None:
        """Hand over a table."""
        self._hand_over(lambda tracker: tracker.table(name, table, iteration))

    def rewind(self, last: int) -> None:
        """Hand over that later iterations are trained again."""
        self._hand_over(lambda tracker: tracker.rewind(last))

    def end(self) -> None:
        """Let the tracker close once it has everything, without waiting for it."""
        if not self._ending:
            with contextlib.suppress(queue.Full):  # `close` tries again
                self._waiting.put_nowait(None)
                self._ending = True

    def close(self, *, patience: float = PATIENCE_S) -> None:
        """Close the tracker once it has everything, and report what it has not; further calls do nothing.

        Args:
            patience: seconds to wait for it.
        """
        if self._closed:
            return
        self._closed, until = True, time.monotonic() + patience
        with contextlib.suppress(queue.Full):
            if not self._ending:
                self._waiting.put(None, timeout=patience)
            self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self._report(f"it has not taken everything within {patience:g} s")
        elif self._lost:
            self._news.put(f"Tracker {self.name}: {self._lost} entries are missing there.")

    def _hand_over(self, entry: Entry) -> None:
        try:
            self._waiting.put_nowait(entry)
        except queue.Full:
            self._lost += 1
            self._report(f"it takes entries more slowly than they come, and {_WAITING} wait already")

    def _work(self) -> None:
        self._try(self._announce)
        self._connected.set()
        while (entry := self._waiting.get()) is not None:
            self._lost += not self._try(entry)
        if self._tracker is not None:
            self._failures = 0  # what has arrived is to be saved
            self._try(lambda tracker: tracker.close())

    def _announce(self, tracker: Tracker) -> None:
        if tracker.address:
            self._news.put(f"Tracker {self.name}: {tracker.address}")

    def _try(self, entry: Entry) -> bool:
        """Give an entry to the tracker; return whether it took it."""
        if self._failures >= _FAILURES:
            return False
        try:
            if self._tracker is None:
                self._tracker = self._connect()
            entry(self._tracker)
        except (Exception, SystemExit) as error:  # noqa: BLE001 (every tracker has errors of its own)
            self._failures += 1
            self._report(one_line(f"{type(error).__name__}: {error}"))
            return False
        self._failures = 0
        return True

    def _report(self, problem: str) -> None:
        """Put the first problem into the news."""
        if not self._reported:
            self._reported = True
            self._news.put(f"Tracker {self.name}: {problem}. Training continues; metrics.jsonl has every row.")
