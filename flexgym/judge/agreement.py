"""How far judgements agree with themselves, and how often they fail: figures to report, which enter no reward.

An assessment states three things that should follow from one another: scores of sub-dimensions, winners of categories,
and an overall winner. Nothing forces them to, and published replies show category winners against their own scores
(arXiv 2602.02380, Fig. 2). A verdict without categories states two: scores of dimensions and a winner.
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
)


def agreement_summary(outcomes: Sequence[Outcome]) -> dict[str, float]:
    """Agreement within the valid judgements of many pairs, and the shares of failures.

    Args:
        outcomes: of any number of pairs and groups.

    Returns:
        Always the same keys; NaN where there is nothing to average.

        ``consistent_categories``: share of the categories whose summed scores do not contradict their stated winner.
        ``even_categories``: share of the categories whose scores are even, and so could not contradict anything.
        ``majority_agrees``: share of the assessments in which the side that wins most categories is the overall
        winner; assessments whose categories are split evenly are left out.
        ``consistent_totals``: share of the verdicts without categories whose summed scores do not contradict their
        winner; those without a dimension are left out.
        ``first_position_rate``: share of the judgements won by the candidate shown first; one half without position
        bias, if sides are balanced.
        ``personalised_categories`` and ``left_out_categories``: mean number per assessment, valid and broken ones.
        ``left_out_dimensions``: mean number per verdict without categories.
        ``failure_share``: share of the outcomes that failed, and ``failure_share/<kind>`` the part of each kind.
    """
    tally: dict[str, list[float]] = {name: [] for name in _MEANS}
    kinds: Counter[str] = Counter()
    for outcome in outcomes:
        if isinstance(outcome, JudgeFailure):
            kinds[outcome.kind] += 1
            continue
        for name, value in _figures(outcome):
            tally[name].append(value)
    shares = {f"failure_share/{kind}": _share(kinds[kind], len(outcomes)) for kind in get_args(FailureKind)}
    return {
        **{name: _share(sum(values), len(values)) for name, values in tally.items()},
        "failure_share": _share(kinds.total(), len(outcomes)),
        **shares,
    }


def _figures(judgement: Assessment | Verdict) -> Iterator[tuple[str, float]]:
    """What a judgement adds to the means, by name; each of its categories is looked at once."""
    yield "first_position_rate", judgement.side == 0
    if isinstance(judgement, Verdict):
        if judgement.dims:
            yield "consistent_totals", judgement.consistent
        yield "left_out_dimensions", judgement.left_out
        return
    for category in judgement.categories:
        scored = category.score_side
        yield "consistent_categories", scored in (None, category.side)
        yield "even_categories", scored is None
    majority = judgement.majority_side
    if majority is not None:
        yield "majority_agrees", majority == judgement.side
    yield "personalised_categories", len(judgement.categories) - len(ANCHOR_KEYWORDS)
    yield "left_out_categories", judgement.left_out


def _share(part: float, whole: int) -> float:
    return part / whole if whole else float("nan")
