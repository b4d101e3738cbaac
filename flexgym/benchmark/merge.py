"""Brings the results of another machine into the folder of a benchmark."""

from __future__ import annotations

from pathlib import Path

from flexgym.benchmark.folder import BenchmarkFolder, check_same_plan, due_step, read_plan, read_steps
from flexgym.benchmark.plan import planned_runs
from flexgym.benchmark.results import EVALUATIONS, METRICS
from flexgym.config.recipe import load_recipe
from flexgym.core.errors import ConfigError
from flexgym.core.files import copy_inside, held_folder
from flexgym.runs.metrics import read_metrics
from flexgym.runs.series import check_unchanged, newest_folder

_RECORDS = ("metrics.jsonl", EVALUATIONS)
"""Files of a run folder that results are made of; checkpoints stay on the other machine."""
_MAX_BYTES = 64 * 2**20


def merge(folder: BenchmarkFolder, other: str | Path) -> list[str]:
    """Copy the finished runs of another folder that have not begun here.

    Recipe, steps, metrics and evaluations are copied, and no checkpoints. Nothing that is here is touched. Where the
    other folder has more seeds, this one has them afterwards.

    Args:
        folder: of the benchmark.
        other: folder of a benchmark with the same plan.

    Returns:
        Names of the runs that were copied.

    Raises:
        ConfigError: no folder of a benchmark, one of another plan, a run with other settings than here, or figures that
            are no numbers; the message names what is wrong.
        CheckpointError: a link in place of a file.
    """
    root = Path(other)
    kept = read_plan(root)
    if kept is None:
        raise ConfigError(f"--merge {root}: expected the folder of a benchmark, with its plan.json; found none")
    check_same_plan(root, kept, folder.plan)
    folder.grow(kept)
    runs = planned_runs(folder.plan)
    found = [run for run in runs if (steps := read_steps(root, run.name)) and due_step(folder.plan, run, steps) is None]
    for run in found:
        if (mine := folder.recipe(run)) is not None:
            theirs = load_recipe(root / "recipes" / f"{run.name}.yaml")
            check_unchanged(f"--merge {root}: {run.name} was trained there and here, here with", mine, theirs)
    missing = [run for run in found if not folder.steps(run) and newest_folder(folder.root, run.name) is None]
    for run in missing:
        _copy(root, folder.root, run.name)
    return [run.name for run in missing]


def _copy(source: Path, target: Path, name: str) -> None:
    """Copy the records of a run; the steps come last, since a run without them has not begun."""
    records = newest_folder(source, name)
    if records is not None:
        with held_folder(target / name) as partial:
            there = [each for each in _RECORDS if (records / each).exists()]
            for each in there:
                _check_size(records / each)
            copy_inside(records, partial, there)
            _check_metrics(partial / "metrics.jsonl", name)
            partial.rename(target / name)
    for each in (f"recipes/{name}.yaml", f"steps/{name}.jsonl"):
        (target / each).unlink(missing_ok=True)
        copy_inside(source, target, [each])


def _check_size(path: Path) -> None:
    size = path.lstat().st_size
    if size > _MAX_BYTES:
        raise ConfigError(f"--merge: expected at most {_MAX_BYTES} bytes in {path}, got {size}")


def _check_metrics(path: Path, name: str) -> None:
    """Check that what results are made of are numbers."""
    for row in read_metrics(path):
        for metric in METRICS:
            value = row.get(metric)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise ConfigError(f"--merge: {name}: expected a number as {metric}, got {value!r}")
