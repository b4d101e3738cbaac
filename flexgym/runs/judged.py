"""The assessments of a judge about the samples of an iteration, as a table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from flexgym.core.text import printable
from flexgym.judge import Assessment, JudgeFailure, Verdict
from flexgym.runs.trackers import Cell, Table
from flexgym.types import GroupScores

COLUMNS = ("caption", "first", "second", "winner", "reward of first", "reward of second", "details", "reason")
"""Columns of the table: the sample shown first, the one shown second, and the judge's words about them."""
MAX_ROWS = 100
_MAX_TEXT = 2000


@dataclass(frozen=True, eq=False)
class JudgedGroup:
    """A group of samples and what a judge said about it.

    Attributes:
        caption: text of the prompt.
        scores: of the group, with the assessments.
    """

    caption: str
    scores: GroupScores


def judge_table(groups: Sequence[JudgedGroup], *, max_rows: int = MAX_ROWS) -> Table | None:
    """Return the judge's assessments as a table, one row per judged pair.

    Captions and replies are shortened, and characters that would do something to a terminal are escaped.

    Args:
        groups: those of an iteration; groups without assessments are left out.
        max_rows: of the table, spread evenly over the groups.

    Returns:
        The table; None where nothing was judged.
    """
    judged = [group for group in groups if group.scores.assessments and group.scores.pairs is not None][:max_rows]
    if not judged:
        return None
    each = max_rows // len(judged)
    return Table(COLUMNS, tuple(row for group in judged for row in islice(_rows(group), each)))


def _rows(group: JudgedGroup) -> Iterator[tuple[Cell, ...]]:
    scores = group.scores
    assert scores.pairs is not None, "only judged groups have rows"
    size = len(scores.rewards)
    for (first, second), outcome in zip(scores.pairs.tolist(), scores.assessments, strict=True):
        names = [_name(index, size) for index in (first, second)]
        rewards = [float(scores.rewards[index]) if index < size else None for index in (first, second)]
        yield (_text(group.caption), *names, _winner(outcome, names), *rewards, _details(outcome), _reason(outcome))


def _name(index: int, size: int) -> str:
    return f"sample {index}" if index < size else f"reference {index - size}"


def _winner(outcome: object, names: Sequence[str]) -> str:
    if isinstance(outcome, JudgeFailure):
        return f"none: {outcome.kind}"
    return names[outcome.side] if isinstance(outcome, Assessment | Verdict) else ""


def _details(outcome: object) -> str:
    """Return categories and criteria with the points of both samples, or where a reply is wrong."""
    if isinstance(outcome, JudgeFailure):
        return _text(outcome.detail)
    if isinstance(outcome, Verdict):
        return _text("; ".join(f"{dim.name} {dim.score_1:g} : {dim.score_2:g}" for dim in outcome.dims))
    if not isinstance(outcome, Assessment):
        return ""
    parts = []
    for category in outcome.categories:
        dims = ", ".join(f"{dim.name} {dim.score_1:g} : {dim.score_2:g}" for dim in category.dims)
        parts.append(f"{category.name} ({category.cat_winner}): {dims}")
    return _text("; ".join(parts))


def _reason(outcome: object) -> str:
    return _text(outcome.reason) if isinstance(outcome, Assessment) else ""


def _text(text: str) -> str:
    return printable(text[:_MAX_TEXT])
