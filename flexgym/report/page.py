"""Build the page of a report: one HTML document with its style, script, figures, samples and assessments in it."""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from flexgym.core.text import printable
from flexgym.core.yaml_files import dump_yaml
from flexgym.report import facts
from flexgym.report.figures import NUM_COLORS, Series, draw_curves
from flexgym.report.gallery import (
    ASSESSMENTS_BYTES,
    SAMPLES_BYTES,
    assessments_payload,
    judged_groups,
    samples_payload,
)
from flexgym.report.grouping import Band, RunGroup, differing_settings, grouped
from flexgym.report.judging import FIGURES, judge_part
from flexgym.report.lines import spread
from flexgym.report.reading import JudgeEvaluation, Run, read_sources

MAX_BYTES = 20_000_000
"""Size that a report stays below, in bytes."""
MAX_FIGURES = 36
"""Number of drawn metrics; of more, values are in the table of all metrics."""
_TEMPLATES = Path(__file__).parent / "templates"
_TABLE_POINTS = 12
_HACKING = ("eval/", "monitor/", "penalty/")
_PASSED_OVER = ("time/", "reward_unscored_share/", "reward_std_within_group/", "judge/failure_share/")
_LEAVES = ("iteration", "samples", "steps")
_SHARES = (1.0, 0.5, 0.25, 0.1, 0.0)  # of the bytes for samples and assessments, tried in this order


@dataclass(frozen=True)
class Figure:
    """A drawn metric.

    Attributes:
        title: label of the metric.
        name: its name in the rows of a run.
        key: distinguishes it from others on the page.
        svg: the drawing.
        summary: what it shows in words, for those who do not see it.
        head: headings of the table of its values.
        rows: cells of the table.
    """

    title: str
    name: str
    key: str
    svg: Markup
    summary: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def build_page(paths: Sequence[Path], *, live: bool = False) -> bytes:
    """Read runs and evaluations and return their report as an HTML document in UTF-8 of less than `MAX_BYTES`.

    Args:
        paths: run folders, and folders of evaluations of judges.
        live: let the page ask its server whether the runs have changed, and load itself again if so.

    Raises:
        ConfigError: a path that is neither, or matplotlib is not installed.
    """
    runs, evaluations = read_sources(paths)
    groups = grouped(runs)
    figures = _figures(groups)
    for share in _SHARES:
        page = _rendered(groups, evaluations, figures, share=share, live=live)
        if len(page) < MAX_BYTES:
            break
    return page


def _rendered(
    groups: Sequence[RunGroup],
    evaluations: Sequence[JudgeEvaluation],
    figures: Mapping[str, Sequence[Figure]],
    *,
    share: float,
    live: bool,
) -> bytes:
    runs = [run for group in groups for run in group.runs]
    samples = samples_payload(runs, max_bytes=int(share * SAMPLES_BYTES))
    samples.values["beside"] = groups[1].runs[0].name if len(groups) > 1 else ""
    assessments = assessments_payload(judged_groups(runs, evaluations), max_bytes=int(share * ASSESSMENTS_BYTES))
    script = (_TEMPLATES / "report.js").read_text()
    context: dict[str, Any] = {
        "title": _title(groups, evaluations),
        "created": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "groups": groups,
        "figures": figures,
        "about": facts.about_rows(groups),
        "results": facts.result_rows(groups),
        "differences": differing_settings(groups) if len(groups) > 1 else {},
        "settings": [(group.label, dump_yaml(dict(group.runs[0].config))) for group in groups],
        "times": facts.time_rows(groups),
        "costs": facts.cost_rows(groups),
        "signs": facts.hacking_signs(groups),
        "metrics": _metric_rows(groups),
        "judges": [judge_part(evaluation) for evaluation in evaluations],
        "judge_figures": list(FIGURES.values()),
        "samples": samples.values if samples.values["runs"] else None,
        "assessments": assessments.values if assessments.values["items"] else None,
        "problems": _problems([*runs, *evaluations]),
        "omitted": [*samples.omitted, *assessments.omitted, *_undrawn(groups)],
        "style": Markup((_TEMPLATES / "report.css").read_text()),
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        "live": live,
        "num_colors": NUM_COLORS,
    }
    return _environment().get_template("report.html.jinja").render(context).encode("utf-8", "replace")


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalized,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["embedded"] = _embedded
    return environment


def _finalized(value: Any) -> Any:
    """Write characters that do something to a terminal, or that reorder text, as escapes; markup stays."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _embedded(value: Any) -> Markup:
    """Return JSON that is safe inside of a ``script`` element, with all text printable."""
    return htmlsafe_json_dumps(_printable(value), separators=(",", ":"), ensure_ascii=False)


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value if value.startswith("data:") else printable(value)
    if isinstance(value, Mapping):
        return {name: _printable(inner) for name, inner in value.items()}
    return [_printable(inner) for inner in value] if isinstance(value, list | tuple) else value


def _title(groups: Sequence[RunGroup], evaluations: Sequence[JudgeEvaluation]) -> str:
    names = [*(group.label for group in groups), *(evaluation.name for evaluation in evaluations)]
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _problems(sources: Iterable[Run | JudgeEvaluation]) -> list[str]:
    return [f"{source.name}: {problem}" for source in sources for problem in source.problems]


# --- figures ---------------------------------------------------------------------------------------------------------


def _figures(groups: Sequence[RunGroup]) -> dict[str, list[Figure]]:
    """Draw the metrics of all groups, by the section that shows them."""
    rewards = list(dict.fromkeys(group.reward_metric for group in groups if group.reward_metric))
    names = _drawn_names(groups)
    signs = facts.hacking_signs(groups)
    placed: dict[str, list[Figure]] = {"results": [], "hacking": [], "more": []}
    for index, name in enumerate(names[:MAX_FIGURES]):
        place = "results" if name in (*rewards, "eval/accuracy") else "more"
        place = "hacking" if place == "more" and name.startswith(_HACKING) else place
        marks = sorted({sign.since for _, sign in signs if sign.metric == name})
        placed[place].append(_figure(groups, name, key=f"f{index}", marks=marks))
    # The reward is drawn twice: it belongs beside what should rise with it.
    again = [_figure(groups, name, key=f"h{index}", marks=()) for index, name in enumerate(rewards)]
    return {**placed, "hacking": [*again, *placed["hacking"]]}


def _drawn_names(groups: Sequence[RunGroup]) -> list[str]:
    """Return the names of all metrics to draw, those of rewards and held-out samples first."""
    names = dict.fromkeys(name for group in groups for name in group.metrics)
    known = [name for name in names if name not in _LEAVES and not name.startswith(_PASSED_OVER)]
    first = list(dict.fromkeys(group.reward_metric for group in groups if group.reward_metric))
    order = (*first, "eval/accuracy", "eval/", "monitor/", "penalty/", "loss/", "policy/", "reward/")
    ranked = sorted(
        known, key=lambda name: next((rank for rank, each in enumerate(order) if name.startswith(each)), 99)
    )
    return [name for name in ranked if any(_varies(group, name) for group in groups)]


def _varies(group: RunGroup, name: str) -> bool:
    """Return True for a metric with more than one value, of which a drawing shows more than a table."""
    return len({value for run in group.runs for value in run.curve(name).values()}) > 1


def _undrawn(groups: Sequence[RunGroup]) -> list[str]:
    count = len(_drawn_names(groups)) - MAX_FIGURES
    return [f"{count} metrics are in the table of all metrics and not drawn."] if count > 0 else []


def _figure(groups: Sequence[RunGroup], name: str, *, key: str, marks: Sequence[int]) -> Figure:
    bands = [(index, group, band) for index, group in enumerate(groups) if (band := group.band(name))]
    title = facts.label_of(bands[0][1] if bands else groups[0], name)
    ends = (
        f"{group.label} {facts.with_interval(band, last=False)} to {facts.with_interval(band)}"
        for _, group, band in bands
    )
    return Figure(
        title=title,
        name=name,
        key=key,
        svg=Markup(draw_curves([Series(index, band) for index, _, band in bands], key, marks=marks)),
        summary=f"{title} over the iterations: {'; '.join(ends)}",
        head=["iteration", *(group.label for _, group, _ in bands)],
        rows=_values([band for _, _, band in bands]),
    )


def _values(bands: Sequence[Band]) -> list[list[str]]:
    iterations = spread(sorted({iteration for band in bands for iteration in band.iterations}), _TABLE_POINTS)
    return [[f"{iteration:,}", *(_value_at(band, iteration) for band in bands)] for iteration in iterations]


def _value_at(band: Band, iteration: int) -> str:
    if iteration not in band.iterations:
        return facts.NONE
    index = band.iterations.index(iteration)
    value = facts.shown(band.mean[index])
    return value if band.runs == 1 else f"{value} [{facts.shown(band.low[index])}, {facts.shown(band.high[index])}]"


def _metric_rows(groups: Sequence[RunGroup]) -> list[facts.TableRow]:
    """Return the first and the last value of every metric."""
    rows = []
    for name in sorted({name for group in groups for name in group.metrics} - {"iteration"}):
        bands = [group.band(name) for group in groups]
        if any(bands):
            cells = (
                f"{facts.shown(band.mean[0])} → {facts.with_interval(band)}" if band else facts.NONE for band in bands
            )
            rows.append(facts.TableRow(name, tuple(cells)))
    return rows


def escaped(value: str) -> str:
    """Return text as HTML that shows it and does nothing else."""
    return html.escape(printable(value))
