"""Results of a benchmark's runs: figures at each budget, learning curves, and both as Parquet."""

from __future__ import annotations

import io
import json
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from flexgym.benchmark.folder import SAMPLES, WALL, BenchmarkFolder, Step
from flexgym.benchmark.plan import PlannedRun, samples_of_iteration
from flexgym.core.files import open_inside, write_atomic
from flexgym.core.json_text import parse_json
from flexgym.core.units import GIB
from flexgym.runs.comparison import DIVERSITY, VERIFIER

EVALUATIONS = "evaluations.jsonl"
"""File of a run folder with a row for each evaluation outside of training."""
_MAX_BYTES = 16 * 2**20
_MEASURED = {"low": "eval/accuracy_low", "high": "eval/accuracy_high", "audit": "eval/audit", "diversity": DIVERSITY}


SECONDS, EVAL_SECONDS = "time/iteration_s", "time/eval_s"
METRICS = (VERIFIER, *_MEASURED.values(), SECONDS, EVAL_SECONDS)
"""Metrics of training that results are made of."""


@dataclass(frozen=True)
class Figures:
    """Figures of a policy on held-out prompts; None where nothing measured them.

    Attributes:
        accuracy: share of samples without fault, balanced over the categories of prompts on test prompts.
        low: lower bound of its interval over prompts.
        high: upper bound of its interval.
        audit: share of samples in which the independent audit finds no fault.
        diversity: distance of samples of one prompt.
        kl: KL to the base, in nats per dimension.
    """

    accuracy: float | None = None
    low: float | None = None
    high: float | None = None
    audit: float | None = None
    diversity: float | None = None
    kl: float | None = None

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Figures:
        """Return the figures among values by name; others are left out."""
        found = {field.name: values.get(field.name) for field in fields(cls)}
        return cls(**{name: float(value) for name, value in found.items() if isinstance(value, int | float)})


@dataclass(frozen=True)
class Outcome:
    """Figures of a run before and after training.

    Attributes:
        split: prompts of the figures, ``validation`` or ``test``.
        before: figures of the base.
        after: figures of the trained policy.
    """

    split: str
    before: Figures
    after: Figures


def outcome_of(run: Path, rows: Sequence[Mapping[str, Any]], *, through: int) -> Outcome | None:
    """Return the outcome of a run at an iteration.

    An evaluation on test prompts of that iteration counts; without one the verifications of training do.

    Args:
        run: the run folder.
        rows: its metrics.
        through: the iteration.

    Returns:
        None where nothing was measured.
    """
    for row in reversed(_evaluations(run)):
        if row.get("split") == "test" and row.get("iteration") == through:
            before, after = (Figures.of(_mapping(row.get(name))) for name in ("before", "after"))
            return Outcome("test", before, after)
    measured = [row for row in rows if row.get(VERIFIER) is not None and row["iteration"] <= through]
    if not measured:
        return None
    before, after = (
        Figures.of({"accuracy": row[VERIFIER], **{name: row.get(metric) for name, metric in _MEASURED.items()}})
        for row in (measured[0], measured[-1])
    )
    return Outcome("validation", before, after)


def _evaluations(run: Path) -> list[Mapping[str, Any]]:
    try:
        with open_inside(run, EVALUATIONS) as file:
            lines = file.read(_MAX_BYTES).splitlines()
    except FileNotFoundError:
        return []
    return [_mapping(parse_json(line)) for line in lines if line.strip()]


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


@dataclass(frozen=True)
class Point:
    """A point of a learning curve, on validation prompts.

    Attributes:
        task: name of the task.
        algorithm: name of the algorithm.
        seed: seed of the run.
        trial: number of a tuning run's point; None for reported runs.
        iteration: finished iterations.
        seconds: seconds of training until then, without verification.
        samples: samples that were trained on until then.
        accuracy: share of held-out samples without fault.
        diversity: distance of samples of one prompt.
        audit: share of samples in which the independent audit finds no fault.
    """

    task: str
    algorithm: str
    seed: int
    trial: int | None
    iteration: int
    seconds: float
    samples: int
    accuracy: float
    diversity: float | None
    audit: float | None


@dataclass(frozen=True)
class Result:
    """A run at the end of a budget.

    Attributes:
        task: name of the task.
        algorithm: name of the algorithm.
        seed: seed of the run.
        trial: number of a tuning run's point; None for reported runs.
        budget: ``samples`` or ``wall``.
        status: ``finished``; ``early`` where an alarm ended the run before the budget; ``not reached`` where its
            minutes ended before the samples; ``failed``.
        problem: last words of a run that failed.
        values: tuned settings, as JSON.
        split: prompts of the figures.
        iteration: finished iterations.
        samples: samples that were trained on.
        seconds: seconds of training, without verification.
        accuracy: see `Figures`; likewise low, high, audit, diversity and kl.
        accuracy_before: accuracy of the base; likewise audit_before and diversity_before.
        seconds_to_gain: seconds of training until the gain of the plan, on validation prompts; None if it never came.
        samples_to_gain: samples until then.
        peak_gib: largest resident memory of the training, in GiB.
        core_hours: wall time of all steps so far times the cores of a run.
        cpu_hours: processor time of all steps so far.
    """

    task: str
    algorithm: str
    seed: int
    trial: int | None
    budget: str
    status: str
    problem: str
    values: str
    split: str
    iteration: int
    samples: int
    seconds: float
    accuracy: float | None
    low: float | None
    high: float | None
    audit: float | None
    diversity: float | None
    kl: float | None
    accuracy_before: float | None
    audit_before: float | None
    diversity_before: float | None
    seconds_to_gain: float | None
    samples_to_gain: float | None
    peak_gib: float
    core_hours: float
    cpu_hours: float


def curve_of(folder: BenchmarkFolder, run: PlannedRun) -> list[Point]:
    """Return the learning curve of a run so far."""
    recipe = folder.recipe(run)
    return [] if recipe is None else curve_points(run, folder.rows(run), samples=samples_of_iteration(recipe))


def curve_points(run: PlannedRun, rows: Sequence[Mapping[str, Any]], *, samples: int) -> list[Point]:
    """Return the learning curve among the metrics of a run.

    Args:
        run: names of the run.
        rows: its metrics.
        samples: samples of an iteration.
    """
    seconds, points = 0.0, []
    for row in rows:
        seconds += (row.get(SECONDS) or 0.0) - (row.get(EVAL_SECONDS) or 0.0)
        if row.get(VERIFIER) is not None:
            iteration = int(row["iteration"])
            points.append(
                Point(
                    task=run.task,
                    algorithm=run.algorithm,
                    seed=run.seed,
                    trial=run.trial,
                    iteration=iteration,
                    seconds=seconds,
                    samples=samples * iteration,
                    accuracy=float(row[VERIFIER]),
                    diversity=row.get(DIVERSITY),
                    audit=row.get(_MEASURED["audit"]),
                )
            )
    return points


def first_gain(curve: Sequence[Point], gain: float) -> tuple[float, float] | None:
    """Return seconds and samples at which a curve first gains so much, between two points by a straight line.

    Args:
        curve: the points of a run.
        gain: over the accuracy of the first point.
    """
    for before, after in zip(curve, curve[1:], strict=False):
        wanted = curve[0].accuracy + gain
        if before.accuracy < wanted <= after.accuracy:
            share = (wanted - before.accuracy) / (after.accuracy - before.accuracy)
            return (
                before.seconds + share * (after.seconds - before.seconds),
                before.samples + share * (after.samples - before.samples),
            )
    return None


def results_of(folder: BenchmarkFolder, run: PlannedRun) -> list[Result]:
    """Return a result for each budget that a run has come to the end of, and for one that failed."""
    steps = folder.steps(run)
    ends = [step for step in steps if step.kind == "train" and step.status == "finished"]
    found = []
    for end in ends:
        found.append(_result(folder, run, end, status=_status(end)))
        if end.budget == SAMPLES and end.end != "budget":  # nothing is trained after it
            found.append(_result(folder, run, end, status="early" if end.end == "early" else "finished", budget=WALL))
    if steps and steps[-1].status == "failed":
        due = folder.due(run)
        found = [result for result in found if due is None or result.budget != due[1]]
        found.append(_result(folder, run, steps[-1], status="failed"))
    return found


def _status(end: Step) -> str:
    if end.end == "budget":
        return "finished"
    return "early" if end.end == "early" else "not reached"


def _result(folder: BenchmarkFolder, run: PlannedRun, end: Step, *, status: str, budget: str | None = None) -> Result:
    steps = folder.steps(run)
    through = steps[: len(steps) if status == "failed" else _last_of(steps, end) + 1]
    curve = [point for point in curve_of(folder, run) if point.iteration <= end.iteration]
    path = folder.series.folder(run.name)
    outcome = None
    if path is not None and status not in ("failed", "not reached"):
        outcome = outcome_of(path, folder.rows(run), through=end.iteration)
    before, after = (outcome.before, outcome.after) if outcome else (Figures(), Figures())
    gained = first_gain(curve, folder.plan.report.gain)
    recipe = folder.recipe(run) or {}
    return Result(
        task=run.task,
        algorithm=run.algorithm,
        seed=run.seed,
        trial=run.trial,
        budget=budget or end.budget,
        status=status,
        problem=end.problem,
        values=json.dumps(folder.values(run) or {}, sort_keys=True),
        split=outcome.split if outcome else "",
        iteration=end.iteration,
        samples=end.iteration * samples_of_iteration(recipe),
        seconds=curve[-1].seconds if curve else 0.0,
        **asdict(after),
        accuracy_before=before.accuracy,
        audit_before=before.audit,
        diversity_before=before.diversity,
        seconds_to_gain=gained[0] if gained else None,
        samples_to_gain=gained[1] if gained else None,
        peak_gib=max((step.peak_bytes for step in through if step.kind == "train"), default=0) / GIB,
        core_hours=sum(step.wall_s for step in through) * folder.plan.budget.cores / 3600.0,
        cpu_hours=sum(step.cpu_s for step in through) / 3600.0,
    )


def _last_of(steps: Sequence[Step], end: Step) -> int:
    """Return the position of the last step of a budget."""
    return max(index for index, step in enumerate(steps) if step.budget == end.budget)


def write_parquet(path: Path, kind: type[Any], rows: Iterable[Any]) -> None:
    """Write instances of a dataclass as a Parquet file with a column for each field.

    Args:
        path: the file.
        kind: the dataclass; its fields are texts, whole numbers and numbers, or None.
        rows: its instances.
    """
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.Table.from_pylist([asdict(row) for row in rows], schema=_schema(kind))
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())


def _schema(kind: type[Any]) -> Any:
    import pyarrow

    known = {str: pyarrow.string(), int: pyarrow.int64(), float: pyarrow.float64()}
    hints = get_type_hints(kind)
    return pyarrow.schema(
        [
            pyarrow.field(
                field.name,
                known[_plain_type(hints[field.name])],
                nullable=isinstance(hints[field.name], types.UnionType),
            )
            for field in fields(kind)
        ]
    )


def _plain_type(hint: Any) -> Any:
    return get_args(hint)[0] if isinstance(hint, types.UnionType) else hint
