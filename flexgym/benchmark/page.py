"""The page of a benchmark: rankings, learning curves, tuning and surprises in one HTML file that loads nothing."""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray

from flexgym.benchmark.figures import curves_svg, ranking_svg
from flexgym.benchmark.folder import SAMPLES, WALL
from flexgym.benchmark.plan import Plan
from flexgym.benchmark.results import Point, Result
from flexgym.benchmark.statistics import (
    Interval,
    improvement_interval,
    interquartile_interval,
    probability_of_improvement,
)
from flexgym.benchmark.surprises import surprises
from flexgym.core.json_text import parse_json

TEMPLATE = Path(__file__).with_name("page.html")
_NONE = "–"
_RANKING = (
    *("", "algorithm", "runs", "accuracy (IQM)", "better than the baseline", "audit", "diversity", "KL to the base"),
    *("s to +{gain}", "samples to +{gain}", "samples", "peak GiB", "core-hours"),
)


@dataclass(frozen=True)
class Progress:
    """How far a benchmark is, and what it has cost.

    Attributes:
        planned: number of planned runs.
        finished: number of finished ones.
        core_hours: wall time of all processes so far times the cores of each, failed tries included.
        cpu_hours: their processor time.
    """

    planned: int
    finished: int
    core_hours: float
    cpu_hours: float


def render_page(plan: Plan, results: Sequence[Result], points: Sequence[Point], *, progress: Progress) -> str:
    """Return the page as HTML.

    Every text in it is escaped, since problems and titles may come from other machines.

    Args:
        plan: the plan.
        results: of all runs, tuning included.
        points: of the learning curves of all runs.
        progress: of the benchmark.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    reported = [result for result in results if result.trial is None]
    tasks = [_task(plan, name, reported, points=points) for name in plan.tasks if any(r.task == name for r in reported)]
    parts = {
        "title": _text(plan.report.title),
        "summary": _summary(plan, results, progress),
        "surprises": _list(surprises(reported)) or "<p>None by the rules of this page.</p>",
        "tasks": "\n".join(tasks) or "<p>No run has come to the end of a budget yet.</p>",
        "tuning": _tuning(plan, [result for result in results if result.trial is not None]),
        "problems": _list(
            f"{result.task}, {result.algorithm}, seed {result.seed}: {result.problem}"
            for result in results
            if result.problem
        )
        or "<p>None.</p>",
        "resamples": str(plan.report.resamples),
    }
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(parts)


def scores_of(results: Sequence[Result]) -> dict[str, NDArray[np.float64]]:
    """Return the accuracies of the runs by algorithm, of one task and one budget."""
    found: dict[str, list[float]] = {}
    for result in results:
        if result.accuracy is not None:
            found.setdefault(result.algorithm, []).append(result.accuracy)
    return {name: np.array(values) for name, values in found.items()}


def ranked(scores: Mapping[str, NDArray[np.float64]], *, resamples: int) -> dict[str, Interval]:
    """Return the interquartile mean of each algorithm with its interval, the highest first."""
    intervals = {name: interquartile_interval({"": values}, resamples=resamples) for name, values in scores.items()}
    return dict(sorted(intervals.items(), key=lambda item: (-item[1].value, item[0])))


def _summary(plan: Plan, results: Sequence[Result], progress: Progress) -> str:
    splits = ", ".join(sorted({result.split for result in results if result.trial is None and result.split})) or _NONE
    facts = {
        "plan": plan.hash,
        "runs": f"{progress.finished} of {progress.planned} finished",
        "cost": f"{progress.core_hours:.1f} core-hours, measured ({progress.cpu_hours:.1f} hours of processor time);"
        " tuning, evaluation and failed tries included",
        "reported figures": f"on {splits} prompts",
        "tuning": f"{plan.tuning.trials} points of its grid for every algorithm and task, on validation prompts alone",
    }
    return _table(("", ""), [(_text(name), _text(value)) for name, value in facts.items()], plain=True)


def _task(plan: Plan, task: str, results: Sequence[Result], *, points: Sequence[Point]) -> str:
    settings, baseline = plan.tasks[task], plan.report.baseline
    titles = {name: algorithm.title for name, algorithm in plan.algorithms.items()}
    mine = [result for result in results if result.task == task]
    headings = {
        WALL: f"At equal wall time: {settings.minutes:g} minutes, cores of a run: {plan.budget.cores}",
        SAMPLES: f"At equal samples: {settings.samples:,}",
    }
    parts = [f"<h2 id='{_text(task)}'>{_text(settings.title)}</h2>"]
    for budget, heading in headings.items():
        parts.append(f"<h3>{_text(heading)}</h3>")
        parts.append(_at_budget(plan, [result for result in mine if result.budget == budget], titles=titles))
    curves = {name: _curves(points, task=task, algorithm=name) for name in settings.algorithms}
    parts.append("<h3>Learning curves</h3><p>Blue: mean and 95% interval of the algorithm; orange: the baseline,")
    parts.append(f"{_text(titles[baseline])}; gray: the others.</p>")
    for axis in ("seconds", "samples"):
        parts.append(f"<figure>{curves_svg(curves, axis, baseline=baseline, titles=titles)}</figure>")
    return "\n".join(parts)


def _at_budget(plan: Plan, results: Sequence[Result], *, titles: Mapping[str, str]) -> str:
    """Return figure, ranking and pairs of the algorithms on a task at the end of a budget."""
    scores = scores_of(results)
    intervals = ranked(scores, resamples=plan.report.resamples)
    slow = [titles[result.algorithm] for result in results if result.status == "not reached"]
    late = f"<p>Not reached within the minutes: {_text(_counted(slow))}.</p>" if slow else ""
    if not intervals:
        return late or "<p>No run has come to the end of this budget yet.</p>"
    before = [result.accuracy_before for result in results if result.accuracy_before is not None]
    base = float(np.mean(before)) if before else None
    return "\n".join(
        (
            f"<figure>{ranking_svg(intervals, base=base, titles=titles)}</figure>",
            _ranking(plan, intervals, results, scores=scores),
            late,
            _pairs(intervals, scores, titles=titles),
        )
    )


def _counted(names: Sequence[str]) -> str:
    """Return names with the number of runs of each."""
    return ", ".join(f"{name} ({count})" for name, count in Counter(names).items())


def _ranking(
    plan: Plan,
    intervals: Mapping[str, Interval],
    results: Sequence[Result],
    *,
    scores: Mapping[str, NDArray[np.float64]],
) -> str:
    baseline = plan.report.baseline
    rows = []
    for place, (name, interval) in enumerate(intervals.items(), start=1):
        runs = [result for result in results if result.algorithm == name]
        better = _NONE
        if baseline in scores and name != baseline:
            one, other = ({"": scores[each]} for each in (name, baseline))
            better = _interval(improvement_interval(one, other, resamples=plan.report.resamples), digits=2)
        algorithm = plan.algorithms[name]
        source = f"<br><small>{_text(algorithm.source)}</small>" if algorithm.source else ""
        reached = [run.seconds_to_gain for run in runs]
        rows.append(
            (
                str(place),
                f"{_text(algorithm.title)}{source}",
                f"{len(scores[name])} of {len(runs)}",
                _interval(interval, digits=3),
                better,
                _mean([run.audit for run in runs]),
                _mean([run.diversity for run in runs]),
                _mean([run.kl for run in runs], digits=4),
                _mean(reached, digits=0) + _of(reached),
                _mean([run.samples_to_gain for run in runs], digits=0),
                _mean([float(run.samples) for run in runs], digits=0),
                _mean([run.peak_gib for run in runs], digits=1),
                _mean([run.core_hours for run in runs], digits=2),
            )
        )
    return _table([name.format(gain=f"{plan.report.gain:.2f}") for name in _RANKING], rows)


def _pairs(
    intervals: Mapping[str, Interval], scores: Mapping[str, NDArray[np.float64]], *, titles: Mapping[str, str]
) -> str:
    """Return the probabilities of improvement of all pairs, folded away."""
    names = list(intervals)
    rows = []
    for place, first in enumerate(names, start=1):
        cells = [_text(f"{place} {titles[first]}")]
        for second in names:
            if first == second:
                cells.append("")
                continue
            share = float(probability_of_improvement(scores[first], scores[second]))
            cells.append(f"<span style='--share: {share:.2f}' class='share'>{share:.2f}</span>")
        rows.append(cells)
    numbers = [str(number) for number in range(1, len(names) + 1)]
    table = _table(["row better than column", *numbers], rows)
    return f"<details><summary>Probability of improvement, every pair</summary>{table}</details>"


def _tuning(plan: Plan, results: Sequence[Result]) -> str:
    rows = []
    for task, algorithm in dict.fromkeys((result.task, result.algorithm) for result in results):
        mine = sorted((r for r in results if (r.task, r.algorithm) == (task, algorithm)), key=lambda r: r.trial or 0)
        best = max(mine, key=lambda r: (-1.0 if r.accuracy is None else r.accuracy, -(r.trial or 0)))
        for result in mine:
            values = ", ".join(f"{name}={json.dumps(value)}" for name, value in parse_json(result.values).items())
            chosen = "chosen" if result is best and len(mine) == plan.tuning.trials else ""
            cells = (task, plan.algorithms[algorithm].title, values, _number(result.accuracy, 3), chosen)
            rows.append([_text(cell) for cell in cells])
    if not rows:
        return "<p>No tuning run has finished yet.</p>"
    table = _table(("task", "algorithm", "settings", "accuracy on validation prompts", ""), rows)
    return f"<details><summary>{len(rows)} tuning runs</summary>{table}</details>"


def _curves(points: Sequence[Point], *, task: str, algorithm: str) -> list[list[Point]]:
    """Return the points of reported runs, those of each run in a list."""
    found: dict[int, list[Point]] = {}
    for point in points:
        if (point.task, point.algorithm, point.trial) == (task, algorithm, None):
            found.setdefault(point.seed, []).append(point)
    return list(found.values())


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], *, plain: bool = False) -> str:
    """Return a table; headers are escaped here, and cells hold HTML."""
    head = "" if plain else f"<thead><tr>{''.join(f'<th>{_text(name)}</th>' for name in header)}</tr></thead>"
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<div class='scroll'><table>{head}<tbody>{body}</tbody></table></div>"


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{_text(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def _interval(interval: Interval, *, digits: int) -> str:
    low, value, high = (f"{number:.{digits}f}" for number in (interval.low, interval.value, interval.high))
    return f"<b>{value}</b> <small>{low} to {high}</small>"


def _mean(values: Sequence[float | None], *, digits: int = 3) -> str:
    there = [value for value in values if value is not None]
    return _number(float(np.mean(there)), digits) if there else _NONE


def _of(values: Sequence[float | None]) -> str:
    """Return how many of the runs have a value, where some have none."""
    there = sum(value is not None for value in values)
    return f" <small>{there} of {len(values)}</small>" if 0 < there < len(values) else ""


def _number(value: float | None, digits: int) -> str:
    return _NONE if value is None else f"{value:,.{digits}f}"


def _text(text: str) -> str:
    return html.escape(text)
