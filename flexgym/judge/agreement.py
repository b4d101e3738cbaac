"""Measure how consistent judgments are with themselves and how often they fail; used for reports, never in rewards.

An assessment states three things that should agree: sub-dimension scores, category winners and an overall winner.
Nothing enforces this, and published replies contain category winners that contradict their own scores
(arXiv 2602.02380, Fig. 2). A verdict without categories states two: dimension scores and a winner.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import get_args

from flexgym.judge.assessment import ANCHOR_KEYWORDS, Assessment
from flexgym.judge.protocol import FailureKind, JudgeFailure, Outcome
from flexgym.judge.verdict import Verdict

_MEANS = (
    "consistent_categories",
    "even_categories",
    "majority_agrees",
    "consistent_totals",
    "first_position_rate",
    "personalised_categories",
    "left_out_categories",
    "left_out_dimensions",
    "odd_scores",
)


def agreement_summary(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Summarize the self-consistency of valid judgments and the share of failed ones.

    Args:
        outcomes: outcomes of any number of pairs and groups.

    Returns:
        A mapping that always has the same keys; a value is NaN if there is nothing to average.

        ``consistent_categories``: share of categories whose summed scores do not contradict their stated winner;
        categories without a valid score are excluded here and in ``even_categories``.
        ``even_categories``: share of categories with tied scores, which cannot contradict any winner.
        ``majority_agrees``: share of assessments whose overall winner also wins the most categories; assessments with
        evenly split categories are excluded.
        ``consistent_totals``: share of verdicts whose summed scores do not contradict their winner; verdicts without
        dimensions are excluded.
        ``first_position_rate``: share of judgments won by the sample shown first; 0.5 without position bias if each
        sample is shown first and second equally often.
        ``personalised_categories`` and ``left_out_categories``: mean number per assessment of personalized categories
        that are valid and that were dropped as invalid.
        ``left_out_dimensions``: mean number of unreadable dimensions per verdict.
        ``odd_scores``: mean number per assessment of sub-dimensions that were set aside, since their scores are not
        numbers, out of range or do not sum to 10.
        ``failure_share``: share of outcomes that failed; ``failure_share/<kind>`` splits it by kind of failure.
    """
    tally: dict[str, list[float]] = {name: [] for name in _MEANS}
    kinds: Counter[str] = Counter()
    for outcome in outcomes:
        if isinstance(outcome, JudgeFailure):
            kinds[outcome.kind] += 1
            continue
        for name, value in _consistency_values(outcome):
            tally[name].append(value)
    shares = {f"failure_share/{kind}": _share(kinds[kind], len(outcomes)) for kind in get_args(FailureKind)}
    return {
        **{name: _share(sum(values), len(values)) for name, values in tally.items()},
        "failure_share": _share(kinds.total(), len(outcomes)),
        **shares,
    }


def _consistency_values(judgment: Assessment | Verdict) -> Iterator[tuple[str, float]]:
    """Yield what one judgment adds to each mean, as pairs of name and value."""
    yield "first_position_rate", judgment.side == 0
    if isinstance(judgment, Verdict):
        if judgment.dims:
            yield "consistent_totals", judgment.consistent
        yield "left_out_dimensions", judgment.left_out
        return
    yield "odd_scores", judgment.odd_scores
    for category in judgment.categories:
        if not category.dims:
            continue
        scored = category.score_side
        yield "consistent_categories", scored in (None, category.side)
        yield "even_categories", scored is None
    majority = judgment.majority_side
    if majority is not None:
        yield "majority_agrees", majority == judgment.side
    yield "personalised_categories", len(judgment.categories) - len(ANCHOR_KEYWORDS)
    yield "left_out_categories", judgment.left_out


def _share(part: float, whole: int) -> float:
    return part / whole if whole else float("nan")
