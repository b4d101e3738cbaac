"""Ctrl-C: the first asks a run to finish its iteration and save, the second stops it at once."""

from __future__ import annotations

import os
import shlex
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

NOTICE = "Stopping after this iteration and saving. Ctrl-C again stops at once and loses the iteration."


class GracefulInterrupt:
    """Turns SIGINT into a request that a training loop reads between iterations.

    ```python
    with GracefulInterrupt() as interrupt:
        while not interrupt.requested:
            train_one_iteration()
    ```

    In another thread than the main one signals cannot be caught: nothing is installed then, and ``requested`` stays
    False unless `request` is called.
    """

    def __init__(self, announce: Callable[[str], None] | None = None) -> None:
        """Prepare; the handler is installed on entering.

        Args:
            announce: called once with `NOTICE` from inside the signal handler: it must not take a lock nor write
                through a buffered stream. By default the notice goes straight to standard error.
        """
        self._announce = announce or write_notice
        self._requested = False
        self._previous: Any = None
        self._installed = False

    @property
    def requested(self) -> bool:
        """True if the run is to stop after the current iteration."""
        return self._requested

    def request(self) -> None:
        """Ask for a stop, as the first Ctrl-C does."""
        if not self._requested:
            self._requested = True
            self._announce(NOTICE)

    def __enter__(self) -> GracefulInterrupt:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._requested:
            self._restore()
            raise KeyboardInterrupt
        self.request()

    def _restore(self) -> None:
        if self._installed:
            # None stands for a handler that was not installed from Python and so cannot be put back.
            signal.signal(signal.SIGINT, signal.default_int_handler if self._previous is None else self._previous)
            self._installed = False


def write_notice(text: str) -> None:
    """Write a line to standard error without buffers or locks, as a signal handler may."""
    os.write(2, f"\n{text}\n".encode())


def resume_message(folder: str | Path, checkpoint: Path | None, *, command: Sequence[str]) -> str:
    """Say how to resume a run that has stopped early.

    Args:
        folder: the run's folder, as it is typed.
        checkpoint: the newest complete checkpoint; None when there is none yet.
        command: the words that start the program, such as ``("python", "-m", "agents.pref_grpo")``.

    Returns:
        Lines that say what is saved, and the command that resumes.
    """
    if checkpoint is None:
        return f"Stopped before the first checkpoint of {folder}. Start again with:\n  {shlex.join(command)}"
    resume = shlex.join([*command, "--resume", str(folder)])
    return f"Stopped. The newest complete checkpoint is {checkpoint.name} in {folder}. Resume with:\n  {resume}"
