"""Works off the runs of a benchmark: tuning first, then each reported run to both of its budgets."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

from flexgym.benchmark.folder import SAMPLES, BenchmarkFolder, Step
from flexgym.benchmark.plan import PlannedRun, samples_of_iteration
from flexgym.benchmark.results import SECONDS
from flexgym.core.lock import FolderLock
from flexgym.runs.checkpoints import latest_checkpoint
from flexgym.runs.processes import Ended, Job, Workplace, work_off

_NO_LIMIT = 1_000_000_000
"""Iterations of a run that ends by its time."""
_LEAST_MINUTES = 0.01
Report = Callable[[str], None]


def train_all(
    folder: BenchmarkFolder,
    runs: Sequence[PlannedRun],
    program: Sequence[str],
    *,
    parallel: int = 1,
    report: Report,
) -> bool:
    """Start or resume every run that is not finished. After a signal, runs at work save and no more are started.

    Args:
        folder: of the benchmark.
        runs: some of the plan.
        program: words that start a training, which takes ``--config``, ``--resume`` and overrides.
        parallel: runs at a time, each on cores of its own.
        report: called with each line of progress.

    Returns:
        True if all of them are finished.

    Raises:
        ConfigError: fewer cores than that needs, or a run was begun with other settings.
        CheckpointError: another process trains in the folder.
    """
    tuning = [run for run in runs if run.trial is not None]
    reported = [run for run in runs if run.trial is None]
    with FolderLock(folder.root):
        for chosen in (tuning, reported):
            jobs = _jobs(folder, chosen, program=tuple(program), report=report)
            if not work_off(jobs, parallel=parallel, cores=folder.plan.budget.cores):
                break
    return not any(folder.due(run) for run in runs)


def _jobs(
    folder: BenchmarkFolder, runs: Sequence[PlannedRun], *, program: tuple[str, ...], report: Report
) -> list[Job]:
    """Return a job for each run that is not finished and waits for no tuning."""
    jobs: list[Job] = []
    for run in runs:
        if folder.due(run) is None:
            continue
        if folder.add(run):
            jobs.append(partial(_work, _Worker(folder, run, program), report))
        else:
            report(f"{run.name}: waits, since the tuning of {run.algorithm} is not finished")
    return jobs


@dataclass(frozen=True)
class _Worker:
    """Trains and evaluates one run."""

    folder: BenchmarkFolder
    run: PlannedRun
    program: tuple[str, ...]

    def train(self, budget: str, place: Workplace) -> Step:
        """Train to a budget, from the newest checkpoint on."""
        target, minutes = self._target(budget), self._minutes()
        end: Literal["budget", "time"] = "time" if budget == SAMPLES else "budget"
        if minutes < _LEAST_MINUTES:
            return Step("train", budget, "finished", iteration=self._iteration(), end=end)
        ended = self._start([*self.program, *self._words(target, minutes)], place)
        iteration = self._iteration()
        longest = max((row.get(SECONDS) or 0.0 for row in self.folder.rows(self.run)), default=0.0)
        step = self._step("train", budget, ended, stopped=place.is_closing and iteration < target)
        if iteration >= target:
            return step
        in_time = ended.wall_s + 2.0 * longest < 60.0 * minutes
        return step.ending("early" if in_time else end)

    def evaluate(self, budget: str, place: Workplace) -> Step:
        """Evaluate the newest checkpoint on test prompts."""
        existing = self.folder.series.folder(self.run.name)
        chosen = self.folder.plan.evaluation
        words = ["evaluate", str(existing), "--split", str(chosen.split), "--num-prompts", str(chosen.num_prompts)]
        ended = self._start([sys.executable, "-m", "flexgym.cli", *words], place)
        return self._step("evaluate", budget, ended, stopped=place.is_closing and ended.status != 0)

    def _start(self, command: Sequence[str], place: Workplace) -> Ended:
        return place.run(command, self.folder.root / "logs" / f"{self.run.name}.log")

    def _words(self, target: int, minutes: float) -> list[str]:
        """Return the words of a training after those that start the program."""
        recipe = self.folder.root / "recipes" / f"{self.run.name}.yaml"
        words = [f"run.iterations={target}", f"run.minutes={minutes:.4f}", "--config", str(recipe)]
        existing = self.folder.series.folder(self.run.name)
        return [*words, "--resume", str(existing)] if existing and latest_checkpoint(existing) else words

    def _target(self, budget: str) -> int:
        """Return the iterations that a budget allows."""
        if budget != SAMPLES:
            return _NO_LIMIT
        samples = self.folder.plan.tasks[self.run.task].samples
        return -(-samples // samples_of_iteration(self.folder.series.recipe(self.run.name)))

    def _minutes(self) -> float:
        """Return the minutes that are left for training."""
        seconds = sum(row.get(SECONDS) or 0.0 for row in self.folder.rows(self.run))
        return self.run.minutes(self.folder.plan) - seconds / 60.0

    def _iteration(self) -> int:
        rows = self.folder.rows(self.run)
        return int(rows[-1]["iteration"]) if rows else 0

    def _step(self, kind: Literal["train", "evaluate"], budget: str, ended: Ended, *, stopped: bool) -> Step:
        status: Literal["finished", "stopped", "failed"] = "failed" if ended.status else "finished"
        problem = (ended.words or f"exit status {ended.status}") if status == "failed" and not stopped else ""
        return Step(
            kind,
            budget,
            "stopped" if stopped else status,
            problem=problem,
            iteration=self._iteration(),
            wall_s=ended.wall_s,
            cpu_s=ended.cpu_s,
            peak_bytes=ended.peak_bytes,
        )


def _work(worker: _Worker, report: Report, place: Workplace) -> None:
    """Do for a run what is due, until it is finished, fails or a signal comes."""
    folder, run = worker.folder, worker.run
    while (due := folder.due(run)) and not place.is_closing:
        kind, budget = due
        report(f"{run.name}: {kind}, {budget}; log in {folder.root / 'logs' / f'{run.name}.log'}")
        step = worker.train(budget, place) if kind == "train" else worker.evaluate(budget, place)
        folder.add_step(run, step)
        report(f"{run.name}: {kind}, {budget}: {step.status}{': ' if step.problem else ''}{step.problem}")
        if step.status != "finished":
            return
