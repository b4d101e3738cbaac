"""Evaluations of judges in a report: figures by category, calibration, and the examples that a judge gets wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flexgym.core.intervals import wilson
from flexgym.report.lines import number, text
from flexgym.report.reading import JudgeEvaluation, section

FIGURES = {
    "accuracy": "accuracy",
    "strict": "right in both orders",
    "order_consistency": "same winner in both orders",
    "first_position_rate": "first position wins",
    "failure_share": "failed",
}
"""Headings of the figures in a table, by their names in ``report.json``."""
_BINS = 5


@dataclass(frozen=True)
class CalibrationBin:
    """Pairs about which a judge is about equally sure.

    Attributes:
        low: smallest lead in points, without sign.
        high: largest lead.
        pairs: number of pairs.
        right: share of them for which the leading candidate is the labeled winner.
        interval: confidence interval of the share.
    """

    low: float
    high: float
    pairs: int
    right: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class JudgePart:
    """Figures, calibration and mistakes of a judge, ready for a page.

    Attributes:
        name: of its folder.
        settings: of the evaluation, as text by name.
        rows: heading and cells, one row for all pairs and one for each category.
        calibration: from the least to the most certain pairs; empty if the judge gives no points.
        wrong: rows of ``pairs.jsonl`` in which no order names the labeled winner, as text.
    """

    name: str
    settings: Mapping[str, str]
    rows: Sequence[tuple[str, Sequence[str]]]
    calibration: Sequence[CalibrationBin]
    wrong: Sequence[Sequence[str]]


def judge_part(evaluation: JudgeEvaluation, *, max_wrong: int = 100) -> JudgePart:
    """Return what a report shows of an evaluation.

    Args:
        evaluation: as it was read.
        max_wrong: number of pairs in the list of those that the judge gets wrong.
    """
    figures = evaluation.figures
    categories = section(figures, "categories")
    shown = {"all pairs": section(figures, "overall"), **{name: section(categories, name) for name in categories}}
    return JudgePart(
        name=evaluation.name,
        settings={text(name): str(value)[:500] for name, value in section(figures, "settings").items()},
        rows=[(name, _cells(found)) for name, found in shown.items() if found],
        calibration=calibration(evaluation.pairs),
        wrong=[_wrong_cells(row) for row in evaluation.pairs if _is_wrong(row)][:max_wrong],
    )


def calibration(pairs: Sequence[Mapping[str, Any]], *, bins: int = _BINS) -> list[CalibrationBin]:
    """Return how often the candidate with more points is the labeled winner, by the size of its lead.

    Args:
        pairs: rows of ``pairs.jsonl``; those with a tied label, without a lead or with a failure do not count.
        bins: number of equally large parts.
    """
    leads = sorted(
        (abs(lead), (lead < 0) == bool(row["label"]))
        for row in pairs
        if row.get("label") in (0, 1) and (lead := number(row.get("lead")))
    )
    size = -(-len(leads) // bins)
    parts = [leads[start : start + size] for start in range(0, len(leads), size)] if leads else []
    found = []
    for part in parts:
        right = sum(is_right for _, is_right in part) / len(part)
        found.append(CalibrationBin(part[0][0], part[-1][0], len(part), right, wilson(right, len(part))))
    return found


def _cells(found: Mapping[str, Any]) -> list[str]:
    return [str(found.get("pairs", "–")), *(_share(found.get(name)) for name in FIGURES)]


def _share(value: Any) -> str:
    parts = [number(value.get(name)) for name in ("value", "low", "high")] if isinstance(value, dict) else []
    if not parts or None in parts:
        return "–"
    middle, low, high = (f"{part:.1%}" for part in parts)
    return f"{middle} [{low}, {high}]"


def _is_wrong(row: Mapping[str, Any]) -> bool:
    said, label = row.get("said"), row.get("label")
    return isinstance(said, list) and bool(said) and label in (0, 1) and label not in said


def _wrong_cells(row: Mapping[str, Any]) -> list[str]:
    said = ", ".join(f"{each + 1}" if each in (0, 1) else text(str(each), 100) for each in row["said"])
    lead = number(row.get("lead"))
    names = [text(str(row.get(name) or "–"), 200) for name in ("id", "category")]
    return [*names, str(row["label"] + 1), said, "–" if lead is None else f"{lead:+.1f}"]
