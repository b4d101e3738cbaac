"""One run of reward-model training: progress, metrics, checkpoints, and the way back after a stop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from flexgym.rllib.recipe import describe
from flexgym.rm.algorithm import METRICS, RewardModelAlgorithm
from flexgym.rm.config import RewardModelConfig
from flexgym.rm.held_out import PREFIX
from flexgym.runs.folder import RunFolder
from flexgym.runs.interrupt import GracefulInterrupt, resume_message
from flexgym.runs.settings import RunSettings
from flexgym.runs.tensorboard import TensorboardLog

_FIGURES = ("loss", "mean_token_accuracy", "rewards/accuracies", "rewards/margins")
_SHOWN = (*_FIGURES, "gradient_norm", *(f"{PREFIX}{name}" for name in _FIGURES))
JUDGE = "judge"
"""The part of a checkpoint that `flexgym.rm export` takes."""


class RewardModelRun:
    """Trains one judge in one run folder.

    Args:
        config: of the algorithm.
        settings: of the run.
        resume: a run folder or checkpoint to go on from; None starts afresh.
        command: the words that start the program, for the message on how to resume.
    """

    def __init__(
        self, config: RewardModelConfig, settings: RunSettings, *, resume: Path | None, command: Sequence[str]
    ) -> None:
        self.config, self.settings, self.command = config, settings, command
        if resume:
            self.folder = RunFolder.resume(resume, keep=settings.keep)
        else:
            self.folder = RunFolder.create(settings.root, settings.name, keep=settings.keep)
        self.folder.write_config({"run": asdict(settings), **describe(config)})
        self._tensorboard = TensorboardLog(self.folder.tensorboard, start_iteration=self.folder.start_iteration)
        self._console = Console()

    def train(self) -> Path:
        """Train to the end, or until Ctrl-C; either way what was learnt is saved.

        Returns:
            The run folder.
        """
        started = time.monotonic()
        if not ray.is_initialized():
            ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        algorithm: RewardModelAlgorithm = self.config.build_algo()
        try:
            if self.folder.resumed_from:
                algorithm.restore_from_path(str(self.folder.resumed_from / "algorithm"))
            with self._progress() as progress, GracefulInterrupt(self._announce) as interrupt:
                if not self.folder.resumed_from:
                    self._measure_start(algorithm)
                finished = self._iterate(algorithm, progress, interrupt, started=started)
            latest = self._checkpoint(algorithm)
            self._console.print(
                f"Metrics and checkpoints: {self.folder.shown}"
                if finished
                else resume_message(self.folder.shown, latest, command=self.command),
                markup=False,
                soft_wrap=True,
            )
        finally:
            algorithm.stop()
            self._tensorboard.close()
            self.folder.close()
        return self.folder.path

    def _iterate(
        self, algorithm: RewardModelAlgorithm, progress: Progress, interrupt: GracefulInterrupt, *, started: float
    ) -> bool:
        """Train until the end; False when a person asked for a stop."""
        task = progress.add_task("", total=self.settings.iterations, completed=algorithm.iteration, shown="")
        while algorithm.iteration < self.settings.iterations and not interrupt.requested:
            metrics = _measured(algorithm.train()[METRICS])
            self._record({"iteration": algorithm.iteration, **metrics})
            progress.update(task, completed=algorithm.iteration, shown=_shown(metrics))
            if algorithm.iteration % self.settings.checkpoint_interval == 0:
                self._checkpoint(algorithm)
            if self.settings.minutes and time.monotonic() - started > 60.0 * self.settings.minutes:
                break
        return not interrupt.requested

    def _measure_start(self, algorithm: RewardModelAlgorithm) -> None:
        """The held-out rows before the first step, which later figures are compared with."""
        metrics = algorithm.evaluate_held_out()
        if metrics:
            self._record({"iteration": 0, **metrics})

    def _progress(self) -> Progress:
        columns = (
            TextColumn("iteration"),
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[shown]}", markup=False),
        )
        return Progress(*columns, console=self._console, disable=not self._console.is_terminal)

    def _record(self, row: Mapping[str, Any]) -> None:
        """One row to the file, to TensorBoard and, where there is no progress bar, as a line."""
        self.folder.metrics.append(row)
        self._tensorboard.scalars(row, row["iteration"])
        if self._console.is_dumb_terminal or not self._console.is_terminal:
            self._console.print(f"iteration {row['iteration']}  {_shown(row)}", highlight=False, soft_wrap=True)

    def _checkpoint(self, algorithm: RewardModelAlgorithm) -> Path:
        """The checkpoint of the last finished iteration, written if it is not there yet."""
        latest = self.folder.checkpoints.latest()
        if latest is not None and latest.name.endswith(f"{algorithm.iteration:06d}"):
            return latest

        def write(folder: Path) -> None:
            algorithm.save_to_path(str(folder / "algorithm"))
            algorithm.save_judge(folder / JUDGE)

        return self.folder.checkpoints.publish(algorithm.iteration, write)

    def _announce(self, text: str) -> None:
        self._console.print(text, markup=False)


def _measured(metrics: Mapping[str, float]) -> dict[str, float]:
    """Without what was not due in this iteration: RLlib goes on to report every name it once logged, as NaN."""
    optional = (PREFIX, "time/eval")
    return {name: value for name, value in metrics.items() if not (name.startswith(optional) and math.isnan(value))}


def _shown(metrics: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {metrics[name]:.4g}" for name in _SHOWN if name in metrics)
