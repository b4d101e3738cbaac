"""One run of an agent: progress, metrics, sample grids, checkpoints, and the way back after a stop."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
import torch

from flexgym.core.errors import JudgeUnavailableError, RewardError
from flexgym.rllib.algorithm import METRICS, FlowAlgorithm
from flexgym.rllib.config import FlowAlgorithmConfig
from flexgym.rllib.recipe import describe
from flexgym.runs.display import TrainingDisplay
from flexgym.runs.export import GENERATOR
from flexgym.runs.folder import RunFolder
from flexgym.runs.interrupt import GracefulInterrupt, resume_message
from flexgym.runs.metrics import read_metrics
from flexgym.runs.settings import RunSettings
from flexgym.runs.tensorboard import TensorboardLog
from flexgym.runs.verification import Verification, save_verification


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
        self.config.failed_samples = str(self.folder.path.resolve() / "failed_samples")
        self.folder.write_config({"run": asdict(settings), **describe(config)})
        self._tensorboard = TensorboardLog(self.folder.tensorboard, start_iteration=self.folder.start_iteration)

    def train(self) -> Path:
        """Train to the end, or until Ctrl-C; either way what was learnt is saved.

        Returns:
            The run folder.
        """
        started = time.monotonic()
        with self.folder, self._tensorboard, _shared_cores():
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
            save_verification(verification, self.folder.samples, self._tensorboard, iteration=row["iteration"])
        self.folder.metrics.append(row)
        self._tensorboard.scalars(row, row["iteration"])
        display.update(row)

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


@contextmanager
def _shared_cores() -> Iterator[None]:
    """Half of torch's threads for each of the two that compute at once, the policy's and the judge's.

    With all for both, the threads of one wait for the cores that those of the other hold.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, threads // 2))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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
