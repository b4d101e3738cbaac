"""Terminal tables for assessments, rankings and calibrations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Column, Table
from rich.text import Text

from flexgym.core.text import printable
from flexgym.judge.assessment import Category, Dimension
from flexgym.judge.protocol import JudgeFailure, Outcome
from flexgym.judge.verdict import Verdict, VerdictDimension
from flexgym.types import GroupScores

if TYPE_CHECKING:
    from flexgym.judge.calibration import CalibrationReport

_COLORS = ("green", "blue")
_REPORTED = ("first_position_rate", "majority_agrees", "consistent_categories", "consistent_totals", "failure_share")
_CONTRADICTED = "  contradicted by its scores"


def outcome_report(caption: str, outcome: Outcome) -> RenderableType:
    """Render a judgment as a panel: the winner and the scores behind it, or the failure.

    Args:
        caption: caption that both candidates were judged against.
        outcome: the judgment.
    """
    title = plain(f"{caption}")
    if isinstance(outcome, JudgeFailure):
        return Panel(plain(f"{outcome.kind}: {outcome.detail}"), title=title, border_style="red")
    winner = Text.assemble("Winner: ", plain(outcome.winner, f"bold {_COLORS[outcome.side]}"))
    if isinstance(outcome, Verdict):
        winner.append("" if outcome.consistent else _CONTRADICTED, "yellow")
        return Panel(Group(winner, _score_table(outcome.dims)), title=title)
    parts = [_category_table(category) for category in outcome.categories]
    return Panel(Group(winner, plain(outcome.reason, "dim"), *parts), title=title)


def _category_table(category: Category) -> Table:
    title = Text.assemble(plain(category.name), "  ", plain(category.cat_winner, f"bold {_COLORS[category.side]}"))
    if not category.consistent:
        title.append(_CONTRADICTED, "yellow")
    table = _score_table(category.dims)
    table.title, table.title_justify = title, "left"
    odd = [f"set aside: {dim.name or 'a criterion without a name'}: {dim.problem}" for dim in category.odd_dims]
    table.caption, table.caption_justify = plain("\n".join([*odd, category.cat_reason])), "left"
    return table


def _score_table(dims: Sequence[Dimension] | Sequence[VerdictDimension]) -> Table:
    table = Table()
    table.add_column("criterion", ratio=2)
    table.add_column("1", justify="right", style=_COLORS[0])
    table.add_column("2", justify="right", style=_COLORS[1])
    table.add_column("reason for the first", ratio=3)
    table.add_column("reason for the second", ratio=3)
    for dim in dims:
        scores = plain(f"{dim.score_1:g}"), plain(f"{dim.score_2:g}")
        table.add_row(plain(dim.name), *scores, plain(dim.reason_1), plain(dim.reason_2))
    return table


def ranking_report(caption: str, names: Sequence[str], scores: GroupScores) -> Table:
    """Render the samples of a prompt as a table, best first.

    Args:
        caption: the prompt.
        names: names of the G samples.
        scores: scores of the group, from a tournament.
    """
    table = Table(
        "",
        "sample",
        "reward",
        *(Column(plain(name)) for name in scores.terms),
        title=plain(caption),
        title_justify="left",
    )
    order = np.argsort(-np.nan_to_num(scores.rewards, nan=-np.inf), kind="stable")
    for rank, index in enumerate(order, start=1):
        values = (scores.rewards[index], *(term[index] for term in scores.terms.values()))
        table.add_row(str(rank), plain(names[index]), *(f"{value:.3f}" for value in values))
    if scores.failures:
        failures = ", ".join(f"{count} {kind}" for kind, count in sorted(scores.failures.items()))
        table.caption = f"{sum(scores.failures.values())} of {len(scores.assessments)} judgments failed: {failures}"
    return table


def calibration_report(report: CalibrationReport) -> RenderableType:
    """Render the figures of a judge and the fidelity of every tournament as tables."""
    judge = Table(
        "the judge", "", title=f"{report.groups} groups, {report.comparisons} judgments", title_justify="left"
    )
    judge.add_row("flip rate", f"{report.flip_rate:.3f}")
    judge.add_row("cyclic triads", f"{report.cyclic_triads:.3f}")
    for name in _REPORTED:
        if np.isnan(report.agreement[name]):
            continue  # a judge reports either categories or totals
        judge.add_row(name.replace("_", " "), f"{report.agreement[name]:.3f}")
    table = Table("tournament", "calls per group", "cosine", "true cosine", "Kendall tau", "unscored")
    for row in report.rows:
        figures = (row.cosine, row.true_cosine, row.kendall_tau, row.unscored)
        table.add_row(row.tournament, f"{row.calls:g}", *(f"{figure:.3f}" for figure in figures))
    return Group(judge, table)


def plain(text: str, style: str = "") -> Text:
    """Create terminal text from untrusted input: `printable` and without markup."""
    return Text(printable(text), style=style)
