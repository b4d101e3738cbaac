"""Train all algorithms of a plan on the small world and rank them, at equal wall time and at equal samples.

``python -m agents.benchmark`` trains or resumes every run of the plan; ``--list`` shows the runs and what they cost.
Results are ``results.parquet``, ``curves.parquet`` and the page ``index.html`` in the folder of the benchmark.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from flexgym.benchmark.folder import BenchmarkFolder, plan_of
from flexgym.benchmark.plan import load_plan, planned_runs
from flexgym.commands.train import train_words
from flexgym.core.options import check_count
from flexgym.core.terminal import say, teaching_errors


def _benchmark(
    plan: Annotated[Path | None, typer.Option(help="Plan as a YAML file; by default the shipped one.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the benchmark.")] = Path("runs/benchmark"),
    only: Annotated[
        list[str] | None, typer.Option(help="Task, algorithm or run to train, with the tuning it needs; repeatable.")
    ] = None,
    *,
    seeds: Annotated[int | None, typer.Option(help="Train at least this many seeds of every task.")] = None,
    parallel: Annotated[int, typer.Option(help="Trainings at a time, each on cores of its own.")] = 1,
    merge: Annotated[
        list[Path] | None, typer.Option(help="Copy finished runs from the folder of another machine, and stop.")
    ] = None,
    list_runs: Annotated[bool, typer.Option("--list", help="List the runs and their core-hours, and stop.")] = False,
) -> None:
    """Train all algorithms of a plan and rank them."""
    with teaching_errors():
        check_count("--parallel", parallel)
        if seeds is not None:
            check_count("--seeds", seeds)
        chosen = plan_of(out, load_plan(plan).with_seeds(seeds))
        runs = planned_runs(chosen, only or [])
        from flexgym.benchmark.report import list_plan, merge_folders, write_results  # for which --help does not wait
        from flexgym.benchmark.runs import train_all

        if list_runs:
            say(*list_plan(out, chosen, runs))
            return
        folder = BenchmarkFolder(out, chosen)
        if merge:
            say(*merge_folders(folder, merge))
            finished = True
        else:
            finished = train_all(folder, runs, train_words("pref_grpo"), parallel=parallel, report=say)
        say(*write_results(folder))
    raise typer.Exit(0 if finished else 1)


def main(arguments: Sequence[str] | None = None, *, command: str = "python -m agents.benchmark") -> None:
    """Parse a command line, train and rank.

    Args:
        arguments: words after those of the command; None takes the words of this process.
        command: words that started the program, for messages.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(_benchmark)
    app(arguments, prog_name=command)
