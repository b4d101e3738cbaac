"""One run of an agent: progress, metrics, sample grids, checkpoints, and the way back after a stop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray

from flexgym.errors import JudgeUnavailableError, RewardError, built_settings
from flexgym.judge.choice import check_count
from flexgym.rllib.algorithm import METRICS, FlowAlgorithm, Verification
from flexgym.rllib.config import FlowAlgorithmConfig
from flexgym.rllib.recipe import Recipe, describe, load_recipe
from flexgym.runs.checkpoints import resolve_checkpoint
from flexgym.runs.display import TrainingDisplay
from flexgym.runs.export import GENERATOR
from flexgym.runs.folder import RunFolder
from flexgym.runs.interrupt import GracefulInterrupt, resume_message
from flexgym.runs.media import GridRow, draw_grid, save_gif, save_png
from flexgym.runs.metrics import read_metrics
from flexgym.runs.tensorboard import TensorboardLog

_GRID_ROWS, _GRID_COLUMNS = 4, 6


@dataclass(frozen=True)
class RunSettings:
    """Section ``run`` of a recipe.

    Attributes:
        name: of the folder.
        root: where run folders stand.
        iterations: how many there are in all.
        minutes: wall time after which the run ends, whatever the iterations; None is no limit.
        checkpoint_interval: iterations between two checkpoints.
        keep: number of newest checkpoints that are kept.

    Raises:
        ConfigError: for a count that is no whole number of at least 1.
    """

    name: str = "run"
    root: str = "runs"
    iterations: int = 100
    minutes: float | None = None
    checkpoint_interval: int = 20
    keep: int = 3

    def __post_init__(self) -> None:
        for name in ("iterations", "checkpoint_interval", "keep"):
            check_count(f"run.{name}", getattr(self, name))

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> RunSettings:
        """From the section of a recipe.

        Raises:
            UnknownNameError: for an unknown key, with the nearest valid one.
            ConfigError: for a value that cannot work.
        """
        return built_settings("section 'run'", cls, values)


def saved_recipe(run: Path) -> Recipe:
    """The recipe that a run was started with.

    Args:
        run: a run folder, or one checkpoint in it.

    Raises:
        CheckpointError: when there is no whole checkpoint to go on from.
    """
    return load_recipe(resolve_checkpoint(run).resolve().parents[1] / "config.yaml")


class TrainingRun:
    """Trains one algorithm in one run folder.

    Args:
        config: of the algorithm.
        settings: of the run.
        resume: a run folder or checkpoint to go on from; None starts afresh.
        command: the words that start the program, for the message on how to resume.
    """

    def __init__(
        self, config: FlowAlgorithmConfig, settings: RunSettings, *, resume: Path | None, command: Sequence[str]
    ) -> None:
        self.config, self.settings, self.command = config, settings, command
        if resume:
            self.folder = RunFolder.resume(resume, keep=settings.keep)
        else:
            self.folder = RunFolder.create(settings.root, settings.name, keep=settings.keep)
        self.folder.write_config({"run": asdict(settings), **describe(config)})
        self._tensorboard = TensorboardLog(self.folder.tensorboard, start_iteration=self.folder.start_iteration)

    def train(self) -> Path:
        """Train to the end, or until Ctrl-C; either way what was learnt is saved.

        Returns:
            The run folder.
        """
        started = time.monotonic()
        with self.folder, self._tensorboard:
            _quiet_libraries()
            if not ray.is_initialized():
                ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
            algorithm: FlowAlgorithm = self.config.build_algo()
            try:
                if self.folder.resumed_from:
                    algorithm.restore_from_path(str(self.folder.resumed_from / "algorithm"))
                self._run(algorithm, deadline=self._deadline(started))
            finally:
                algorithm.stop()
        return self.folder.path

    def _run(self, algorithm: FlowAlgorithm, *, deadline: float) -> None:
        history = read_metrics(self.folder.path / "metrics.jsonl")
        title = f"{type(algorithm).__name__}, {self.folder.shown}"
        display = TrainingDisplay(self.settings.iterations, title=title, history=history)
        with display, GracefulInterrupt(display.announce) as interrupt:
            if not self.folder.resumed_from:
                self._record(algorithm, display, {"iteration": 0}, verification=self._verify(algorithm))
            try:
                finished = self._iterate(algorithm, display, interrupt, deadline=deadline)
            except (JudgeUnavailableError, RewardError):
                self._finish(algorithm, display, finished=False)
                raise
            self._finish(algorithm, display, finished=finished)

    def _deadline(self, started: float) -> float:
        return started + 60.0 * self.settings.minutes if self.settings.minutes else float("inf")

    def _iterate(
        self, algorithm: FlowAlgorithm, display: TrainingDisplay, interrupt: GracefulInterrupt, *, deadline: float
    ) -> bool:
        """Train until the end; False when a person asked for a stop."""
        longest = 0.0
        while algorithm.iteration < self.settings.iterations and not interrupt.requested:
            began = time.monotonic()
            display.phase("training")
            metrics = _measured(algorithm.train()[METRICS])
            done = algorithm.iteration == self.settings.iterations or interrupt.requested
            late = time.monotonic() + max(longest, time.monotonic() - began) > deadline
            verification = algorithm.last_verification or (self._verify(algorithm) if done or late else None)
            self._record(algorithm, display, {"iteration": algorithm.iteration, **metrics}, verification=verification)
            if algorithm.iteration % self.settings.checkpoint_interval == 0:
                self._checkpoint(algorithm)
            if late:
                break
            longest = max(longest, time.monotonic() - began)
        return not interrupt.requested

    def _verify(self, algorithm: FlowAlgorithm) -> Verification | None:
        return algorithm.verify() if self.config.verification_reward else None

    def _record(
        self,
        algorithm: FlowAlgorithm,
        display: TrainingDisplay,
        row: dict[str, Any],
        *,
        verification: Verification | None,
    ) -> None:
        """Metrics to the file, TensorBoard and the display; a grid where samples were verified."""
        if verification is not None:
            row = {**row, **verification.metrics}
            self._draw(verification, row["iteration"])
        self.folder.metrics.append(row)
        self._tensorboard.scalars(row, row["iteration"])
        display.update(row)

    def _draw(self, verification: Verification, iteration: int) -> None:
        """Held-out samples with fixed seeds, so that grids of two iterations differ by what was learnt alone."""
        accuracy = verification.metrics["eval/verifier_accuracy"]
        grid = draw_grid(
            _grid_rows(verification),
            title=f"iteration {iteration}: {accuracy:.1%} of the held-out prompts met",
            columns=_GRID_COLUMNS,
            tile=96,
        )
        name = f"iteration_{iteration:06d}"
        if grid.ndim == 4:
            save_gif(self.folder.samples / f"{name}.gif", grid)
            self._tensorboard.video("held_out", grid, iteration)
        else:
            save_png(self.folder.samples / f"{name}.png", grid)
            self._tensorboard.image("held_out", grid, iteration)

    def _checkpoint(self, algorithm: FlowAlgorithm) -> Path:
        def write(folder: Path) -> None:
            algorithm.save_to_path(str(folder / "algorithm"))
            algorithm.save_generator(folder / GENERATOR)

        return self.folder.checkpoints.publish(algorithm.iteration, write)

    def _last_checkpoint(self, algorithm: FlowAlgorithm) -> Path:
        """That of the last finished iteration, written now if need be; one that was broken off has changed nothing."""
        latest = self.folder.checkpoints.latest()
        if latest is None or algorithm.iteration and not latest.name.endswith(f"{algorithm.iteration:06d}"):
            latest = self._checkpoint(algorithm)
        return latest

    def _finish(self, algorithm: FlowAlgorithm, display: TrainingDisplay, *, finished: bool) -> None:
        latest = self._last_checkpoint(algorithm)
        if not finished:
            display.note(resume_message(self.folder.shown, latest, command=self.command))
            return
        rows = [row for row in read_metrics(self.folder.path / "metrics.jsonl") if row.get("eval/verifier_accuracy")]
        if len(rows) > 1:
            first, last = rows[0]["eval/verifier_accuracy"], rows[-1]["eval/verifier_accuracy"]
            display.note(
                f"Held-out prompts met: {first:.3f} before, {last:.3f} after (iteration {rows[-1]['iteration']})."
            )
        display.note(f"Metrics, samples and checkpoints: {self.folder.shown}")


def _measured(metrics: Mapping[str, float]) -> dict[str, float]:
    """Without what was not due in this iteration: RLlib goes on to report every name it once logged, as NaN."""
    absent = ("eval/", "time/eval", "reward/win_rate_vs_reference")
    return {name: value for name, value in metrics.items() if not (name.startswith(absent) and math.isnan(value))}


def _quiet_libraries() -> None:
    """Keep notices of the libraries below from breaking into the progress display; their errors still show."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    logging.getLogger("ray").setLevel(logging.ERROR)


def _grid_rows(verification: Verification) -> list[GridRow]:
    """The first held-out samples, one tile each under its own caption."""
    count = min(_GRID_ROWS * _GRID_COLUMNS, len(verification.prompts))
    return [
        GridRow(
            caption=verification.prompts[index],
            samples=verification.samples[index : index + 1],
            marks=(bool(verification.scores[index] >= 1.0 - 1e-6),),
        )
        for index in range(count)
    ]
