"""The run loop: one run of whatever trains, in one run folder, with one way to stop, save and resume.

Agents on RLlib, judge training and Stable-Baselines3 each implement `Trainable`; `TrainingRun` does the rest.
"""

from __future__ import annotations

import contextlib
import itertools
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from flexgym.config import RunSettings
from flexgym.core.errors import JudgeUnavailableError, ProcessLostError, RewardError
from flexgym.core.metrics import Metric
from flexgym.core.urls import url_of
from flexgym.data.problems import DataError
from flexgym.runs.alarm import signs_of_hacking
from flexgym.runs.checkpoints import checkpoint_name
from flexgym.runs.display import TrainingDisplay, say
from flexgym.runs.folder import RunFolder
from flexgym.runs.interrupt import GracefulInterrupt, resume_command, resume_message
from flexgym.runs.judged import JudgedGroup, judge_table
from flexgym.runs.metrics import read_metrics
from flexgym.runs.paths import with_absolute_paths
from flexgym.runs.records import RecordedGroup, Records
from flexgym.runs.starts import record_start
from flexgym.runs.trackers import PATIENCE_S, TrackedRun, Trackers, check_trackers
from flexgym.runs.verification import Verification, save_verification

_URGENT_S = 5.0  # for the trackers, where a signal leaves only seconds


@dataclass(frozen=True)
class Measured:
    """Metrics of an iteration, or of an evaluation outside of one.

    Attributes:
        metrics: metrics and plain numbers by name.
        verification: of held-out prompts, if there was one; its metrics are added and its samples drawn.
        judged: groups of the iteration that a judge compared; trackers get a table of them now and then.
        recorded: groups of the iteration to keep for a report.
    """

    metrics: Mapping[str, Any] = field(default_factory=dict)
    verification: Verification | None = None
    judged: Sequence[JudgedGroup] = ()
    recorded: Sequence[RecordedGroup] = ()


class Trainable(Protocol):
    """Something that `TrainingRun` trains, iteration by iteration."""

    @property
    def title(self) -> str:
        """Name of the algorithm, for the display."""
        ...

    @property
    def known(self) -> Mapping[str, Metric]:
        """Metrics that the display shows before they are measured, by name."""
        ...

    @property
    def required(self) -> Sequence[str]:
        """Files and folders of a checkpoint without which `restore` or an export fails, by relative name."""
        ...

    @property
    def iteration(self) -> int:
        """Number of finished iterations; one that broke off does not count."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Return the effective settings by section, without those of the run."""
        ...

    def build(self, folder: RunFolder) -> None:
        """Load and allocate everything that training needs, before the first iteration.

        This and every other method may raise `ProcessLostError`: the run then closes it and builds it again.
        """
        ...

    def restore(self, checkpoint: Path) -> None:
        """Restore what `save` wrote; after it, training continues bit for bit."""
        ...

    def measure(self, *, final: bool) -> Measured | None:
        """Evaluate on held-out data outside of the intervals that `step` keeps.

        Args:
            final: after the last iteration rather than before the first one.

        Returns:
            The metrics; None where nothing is recorded then.
        """
        ...

    def step(self) -> Measured:
        """Train for one iteration, and evaluate where the interval of evaluations says so."""
        ...

    def save(self, folder: Path) -> None:
        """Write a checkpoint into an empty folder."""
        ...

    def summary(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[str]:
        """Return lines about a finished run, given its rows of ``metrics.jsonl``."""
        ...

    def close(self) -> None:
        """Release what `build` allocated; called in any case, also when `build` failed."""
        ...


class TrainingRun:
    """Trains in one run folder.

    The folder is open, and locked, from here on until `train` has ended.

    Args:
        trainable: adapter of the algorithm to train; built when training starts.
        settings: where the run writes and when it ends.
        resume: run folder or checkpoint to continue from; None starts a new run.
        command: words that start the program, for the message that says how to resume.

    Attributes:
        stopped_by: the signal that ended the run before its last iteration; None if none did.
    """

    def __init__(
        self, trainable: Trainable, settings: RunSettings, *, resume: Path | None = None, command: Sequence[str] = ()
    ) -> None:
        self.trainable, self.settings, self.command = trainable, settings, command
        self.stopped_by: signal.Signals | None = None
        self._alarms: set[str] = set()
        check_trackers(settings.trackers)
        if resume:
            self.folder = RunFolder.resume(resume, keep=settings.keep, required=trainable.required)
        else:
            self.folder = RunFolder.create(settings.root, settings.name, keep=settings.keep)
        root = settings.root if url_of(settings.root) else str(self.folder.path.parent)
        run = {**settings.model_dump(mode="json"), "root": root}
        self._config = {"run": run, **with_absolute_paths(trainable.describe())}
        self.folder.write_config(self._config)
        self._trackers = Trackers()
        self._records = Records(self.folder.path, settings.records)
        record_start(self.folder.path, iteration=self.folder.start_iteration, command=command)

    def train(self) -> Path:
        """Train to the end, until the time is up or until a signal; in each case everything learned is saved.

        A second signal, or the first one while nothing is worth finishing, raises `KeyboardInterrupt` with the signal
        as its argument. The folder of a new run that ends before it recorded anything is removed.

        Returns:
            The run folder.

        Raises:
            RewardError: samples cannot be scored; the last finished iteration is saved.
            DataError: a row of a data set cannot be read; the last finished iteration is saved.
            JudgeUnavailableError: no judge server answers; the last finished iteration is saved.
            ProcessLostError: a process was lost once more than ``run.max_restarts`` allows.
        """
        deadline = time.monotonic() + 60.0 * (self.settings.minutes or float("inf"))
        with GracefulInterrupt() as interrupt:
            try:
                with self.folder, contextlib.closing(self):
                    with interrupt.at_once():
                        self._open_trackers()
                    self._train_with_restarts(interrupt, deadline)
            except BaseException:
                self.folder.remove_unused()
                raise
        return self.folder.path

    def close(self) -> None:
        """Close the trackers, and say what they have missed."""
        urgent = self.stopped_by not in (None, signal.SIGINT)
        self._trackers.close(patience=_URGENT_S if urgent else PATIENCE_S)
        self._say_news()

    def _open_trackers(self) -> None:
        folder = self.folder
        last = folder.start_iteration if folder.resumed_from else None
        name = folder.remote.url.rpartition("/")[2] if folder.remote else folder.path.name
        run = TrackedRun(id=folder.id, name=name, folder=folder.path, config=self._config, last=last)
        self._trackers = Trackers(self.settings.trackers, run)
        self._say_news()

    def _say_news(self) -> None:
        for line in self._trackers.news():
            say(line)

    def _train_with_restarts(self, interrupt: GracefulInterrupt, deadline: float) -> None:
        """Train, and start again from the newest checkpoint after the loss of a process."""
        for restarts in itertools.count(1):
            loss = self._attempt(interrupt, deadline)
            if not loss:
                return
            latest = self.folder.checkpoints.latest()
            report = [f"Lost: {loss}", self._progress(latest)]
            if interrupt.requested or restarts > self.settings.max_restarts:
                again = resume_command(self.folder.shown, self.command) if latest else "start it again"
                raise ProcessLostError("\n".join([*report, f"To continue: {again}"]))
            allowed = f"restart {restarts} of run.max_restarts={self.settings.max_restarts}"
            say("\n".join([*report, f"Next: training continues by itself from there ({allowed})."]))
            self.folder.rewind()
            self._trackers.rewind(self.folder.start_iteration if self.folder.resumed_from else -1)

    def _progress(self, latest: Path | None) -> str:
        rows = read_metrics(self.folder.metrics.path)
        done = f"Done: {rows[-1]['iteration'] if rows else 0} of {self.settings.iterations} iterations"
        return f"{done}; the newest complete checkpoint in {self.folder.shown} is {latest.name if latest else 'none'}."

    def _attempt(self, interrupt: GracefulInterrupt, deadline: float) -> str:
        """Build, restore and train; return what was lost if a process was, else an empty text."""
        with contextlib.closing(self.trainable):
            try:
                with interrupt.at_once():
                    self.trainable.build(self.folder)
                    if self.folder.resumed_from:
                        self.trainable.restore(self.folder.resumed_from)
                interrupt.reinstall()
                self._train(interrupt, deadline)
                interrupt.announce = _ignore  # from here on there is only closing to do
            except ProcessLostError as error:
                return str(error)
            except KeyboardInterrupt:
                say(resume_message(self.folder.shown, self.folder.checkpoints.latest(), command=self.command))
                raise
        return ""

    def _train(self, interrupt: GracefulInterrupt, deadline: float) -> None:
        display = TrainingDisplay(
            self.settings.iterations,
            title=f"{self.trainable.title}, {self.folder.shown}",
            history=read_metrics(self.folder.metrics.path),
            known={**self.trainable.known, **self.folder.metrics.schema},
            deadline=deadline,
        )
        interrupt.announce = display.announce
        with display:
            if not self.folder.resumed_from:
                display.phase("evaluating")
                self._record(self.trainable.measure(final=False), display)
            try:
                self._iterate(display, interrupt, deadline=deadline)
            except (DataError, JudgeUnavailableError, RewardError):
                self._finish(display, stopped=True)
                raise
            unfinished = self.trainable.iteration < self.settings.iterations
            self.stopped_by = interrupt.signal if interrupt.requested and unfinished else None
            self._finish(display, stopped=interrupt.requested and unfinished)

    def _iterate(self, display: TrainingDisplay, interrupt: GracefulInterrupt, *, deadline: float) -> None:
        """Train until the last iteration, a request to stop, or until one more would exceed the deadline."""
        longest, late, alarmed = 0.0, False, False
        while self.trainable.iteration < self.settings.iterations and not (interrupt.requested or late or alarmed):
            began, previous = time.monotonic(), self.trainable.iteration
            display.phase("training")
            measured = self.trainable.step()
            late = time.monotonic() + max(longest, time.monotonic() - began) > deadline
            ends = late or interrupt.requested or self.trainable.iteration >= self.settings.iterations
            if ends and not interrupt.is_urgent:
                measured = self._with_final(measured, display)
            self._record(measured, display)
            saves = crosses(self.settings.checkpoint_interval, previous, self.trainable.iteration)
            # A run that verifies nothing has its monitors checked, and its judge shown, where it saves.
            looks = measured.verification is not None or saves
            if looks and (table := judge_table(measured.judged)):
                self._trackers.table("judge", table, self.trainable.iteration)
            alarmed = looks and self._alarm(display)
            if saves:
                display.phase("saving")
                self._checkpoint()
            longest = max(longest, time.monotonic() - began)

    def _alarm(self, display: TrainingDisplay) -> bool:
        """Say where the reward seems to be hacked, each metric once; return whether the run must end."""
        chosen = self.settings.alarm
        if not chosen.patience:
            return False
        rows = read_metrics(self.folder.metrics.path)
        signs = signs_of_hacking(rows, patience=chosen.patience, drop=chosen.drop)
        for sign in signs:
            if sign.metric not in self._alarms:
                self._alarms.add(sign.metric)
                display.note(f"The reward may be hacked: {sign}")
        return bool(signs) and chosen.stop

    def _with_final(self, measured: Measured, display: TrainingDisplay) -> Measured:
        """Evaluate after the last iteration, unless it was the turn of an evaluation anyway."""
        if measured.verification is not None:
            return measured
        display.phase("evaluating")
        final = self.trainable.measure(final=True) or Measured()
        return replace(measured, metrics={**measured.metrics, **final.metrics}, verification=final.verification)

    def _record(self, measured: Measured | None, display: TrainingDisplay) -> None:
        """Write metrics to the file, the trackers and the display, and a grid where samples were verified."""
        if measured is None:
            return
        iteration = {"iteration": self.trainable.iteration}
        row = {**iteration, **measured.metrics, **iteration}
        if measured.verification is not None:
            row |= measured.verification.metrics
            save_verification(measured.verification, self.folder.samples, self._trackers, iteration=row["iteration"])
            self._records.held_out(measured.verification, row["iteration"])
        self._records.judged(measured.recorded, row["iteration"])
        self.folder.metrics.append(row)
        self._trackers.metrics(row, row["iteration"])
        display.update(row)
        for line in self._trackers.news():
            display.note(line)

    def _checkpoint(self) -> Path:
        """Return the checkpoint of the last finished iteration, written now if it is not there yet."""
        iteration = self.trainable.iteration
        latest = self.folder.checkpoints.latest()
        if latest is None or latest.name != checkpoint_name(iteration):
            latest = self.folder.checkpoints.publish(iteration, self.trainable.save, required=self.trainable.required)
        return latest

    def _finish(self, display: TrainingDisplay, *, stopped: bool) -> None:
        latest = self._checkpoint()
        if stopped:
            display.note(resume_message(self.folder.shown, latest, command=self.command))
            return
        for line in self.trainable.summary(read_metrics(self.folder.metrics.path)):
            display.note(line)
        samples = ", samples" if any(self.folder.samples.iterdir()) else ""
        display.note(f"Metrics{samples} and checkpoints: {self.folder.shown}")


def crosses(interval: int, previous: int, now: int) -> bool:
    """Return whether a multiple of an interval lies among the iterations after ``previous`` up to ``now``.

    Args:
        interval: in iterations; 0 is never reached.
        previous: finished iterations before.
        now: finished iterations now; one step may finish several.
    """
    return bool(interval) and now // interval > previous // interval


def _ignore(text: str) -> None:
    """Drop an announcement: the run has ended, and a signal changes nothing any more."""
