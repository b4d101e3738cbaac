"""Writes the results of a benchmark as Parquet and as a page, and lists its runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flexgym.benchmark.folder import BenchmarkFolder, due_step, read_steps
from flexgym.benchmark.merge import merge
from flexgym.benchmark.page import Progress, render_page
from flexgym.benchmark.plan import Plan, PlannedRun, planned_runs
from flexgym.benchmark.results import Point, Result, curve_of, results_of, write_parquet
from flexgym.core.files import write_atomic

PAGE = "index.html"


def write_results(folder: BenchmarkFolder) -> list[str]:
    """Write ``results.parquet``, ``curves.parquet`` and the page from the runs that are there.

    Returns:
        Lines for the user.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    runs = planned_runs(folder.plan)
    steps = [step for run in runs for step in folder.steps(run)]
    results = [result for run in runs for result in results_of(folder, run)]
    points = [point for run in runs for point in curve_of(folder, run)]
    finished = sum(folder.due(run) is None for run in runs)
    progress = Progress(
        planned=len(runs),
        finished=finished,
        core_hours=sum(step.wall_s for step in steps) * folder.plan.budget.cores / 3600.0,
        cpu_hours=sum(step.cpu_s for step in steps) / 3600.0,
    )
    write_parquet(folder.root / "results.parquet", Result, results)
    write_parquet(folder.root / "curves.parquet", Point, points)
    page = render_page(folder.plan, results, points, progress=progress)
    write_atomic(folder.root / PAGE, page.encode())
    return [
        f"{finished} of {len(runs)} runs finished.",
        f"Results: {folder.root / PAGE}, results.parquet and curves.parquet",
    ]


def list_plan(root: Path, plan: Plan, runs: Sequence[PlannedRun]) -> list[str]:
    """Return a line for each run with its state and its core-hours, measured or estimated, and the sums."""
    lines, spent, left = [], 0.0, 0.0
    for run in runs:
        steps = read_steps(root, run.name)
        measured = sum(step.wall_s for step in steps) * plan.budget.cores / 3600.0
        finished = due_step(plan, run, steps) is None
        state = "finished" if finished else steps[-1].status if steps else "waiting"
        estimate = run.core_hours(plan)
        spent, left = spent + measured, left + (0.0 if finished else max(estimate - measured, 0.0))
        lines.append(f"{run.name:<48} {state:<9} {measured if finished else estimate:6.2f} core-hours")
    tuning = sum(run.trial is not None for run in runs)
    return [
        *lines,
        f"{len(runs)} runs, {tuning} of them for tuning; plan {plan.hash}",
        f"{spent:.1f} core-hours spent, about {left:.1f} left",
    ]


def merge_folders(folder: BenchmarkFolder, others: Sequence[Path]) -> list[str]:
    """Merge the finished runs of other folders, and return a line for each folder."""
    lines = []
    for other in others:
        names = merge(folder, other)
        lines.append(f"{other}: {len(names)} run(s) copied{': ' if names else ''}{', '.join(names)}")
    return lines
