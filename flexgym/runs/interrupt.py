"""Signals: the first asks a run to finish its iteration and save, the second stops it at once."""

from __future__ import annotations

import contextlib
import gc
import os
import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from flexgym.core.outputs import drop_lost_outputs, write_error_line

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Signals that stop a run: Ctrl-C, a scheduler that takes the machine back, a closed terminal, a warning by Slurm."""

NOTICE = "Stopping after this iteration and saving. Ctrl-C or another signal stops at once and loses the iteration."


class GracefulInterrupt:
    """Turns signals into a request that a training loop reads between iterations.

    ```python
    with GracefulInterrupt() as interrupt:
        while not interrupt.requested:
            train_one_iteration()
    ```

    It handles `SIGNALS`, but not a SIGHUP that is ignored already, as under ``nohup``. In another thread than the main
    one signals cannot be caught: nothing is installed then, and ``requested`` stays False unless `request` is called.

    Attributes:
        announce: called once with `NOTICE` from inside the signal handler: it must not take a lock nor write through a
            buffered stream. By default the notice goes straight to standard error.
        signal: the first signal that came; None before.
    """

    def __init__(self, announce: Callable[[str], None] | None = None) -> None:
        """Prepare; the handlers are installed on entering."""
        self.announce = announce or write_error_line
        self.signal: signal.Signals | None = None
        self._requested = False
        self._patient = True
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def requested(self) -> bool:
        """True if the run is to stop after the current iteration."""
        return self._requested

    @property
    def is_urgent(self) -> bool:
        """True if a stop is requested by a signal that leaves only seconds to save, as all but Ctrl-C may."""
        return self._requested and self.signal not in (None, signal.SIGINT)

    def request(self) -> None:
        """Ask for a stop, as the first Ctrl-C does."""
        if not self._requested:
            self._requested = True
            self.announce(NOTICE)

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Let the first signal raise `KeyboardInterrupt` inside this context, in which nothing is worth finishing."""
        patient, self._patient = self._patient, False
        try:
            yield
        finally:
            self._patient = patient

    def reinstall(self) -> None:
        """Install the handlers again, since libraries such as Ray replace them when they start."""
        for number in self._previous:
            signal.signal(number, self._handle)

    def __enter__(self) -> GracefulInterrupt:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                previous = signal.getsignal(number)
                if number != signal.SIGHUP or previous != signal.SIG_IGN:
                    self._previous[number] = previous
            self.reinstall()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        drop_lost_outputs()
        if self.signal is None:
            self.signal = signal.Signals(number)
        if self._requested or not self._patient:
            self._restore()
            raise KeyboardInterrupt(signal.Signals(number))
        self.request()

    def _restore(self) -> None:
        for number, previous in self._previous.items():
            # None stands for a handler that was not installed from Python and so cannot be put back.
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default if previous is None else previous)
        self._previous = {}


def exit_status(number: int) -> int:
    """Return the exit status of a process that a signal stopped: 128 and the number of the signal."""
    return 128 + number


def stopping_signal(error: KeyboardInterrupt) -> int:
    """Return the number of the signal for which `GracefulInterrupt` raised an error."""
    return error.args[0] if error.args else signal.SIGINT


def end_quietly(status: int) -> None:
    """Let further signals end this process with the given status, for the time in which it only shuts down."""

    def end(number: int, frame: FrameType | None) -> None:
        os._exit(status)

    drop_lost_outputs()
    gc.freeze()  # the last collection would look at every object of torch and Ray, which takes seconds
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end)


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
        return f"Stopped before the first checkpoint of {folder}. Start again with the same command."
    saved = f"Stopped. The newest complete checkpoint is {checkpoint.name} in {folder}."
    return f"{saved} Resume with:\n  {resume_command(folder, command)}"


def resume_command(folder: str | Path, command: Sequence[str]) -> str:
    """Return the command that resumes a run; arguments as those of `resume_message`."""
    return shlex.join([*command, "--resume", str(folder)])
