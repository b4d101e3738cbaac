"""How far judgements agree with themselves, and how often they fail: figures to report, which enter no reward.

An assessment states three things that should follow from one another: scores of sub-dimensions, winners of categories,
and an overall winner. Nothing forces them to, and published replies show category winners against their own scores
(arXiv 2602.02380, Fig. 2). A verdict without categories states two: scores of dimensions and a winner.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import get_args

from flexgym.judge.assessment import Assessment
from flexgym.judge.protocol import FailureKind, JudgeFailure, Outcome
from flexgym.judge.verdict import Verdict


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
    assessments = [outcome for outcome in outcomes if isinstance(outcome, Assessment)]
    verdicts = [outcome for outcome in outcomes if isinstance(outcome, Verdict)]
    categories = [category for assessment in assessments for category in assessment.categories]
    kinds = Counter(outcome.kind for outcome in outcomes if isinstance(outcome, JudgeFailure))
    shares = {f"failure_share/{kind}": _share(kinds[kind], len(outcomes)) for kind in get_args(FailureKind)}
    return {
        "consistent_categories": _mean(category.consistent for category in categories),
        "even_categories": _mean(category.score_side is None for category in categories),
        "majority_agrees": _mean(
            assessment.majority_side == assessment.side
            for assessment in assessments
            if assessment.majority_side is not None
        ),
        "consistent_totals": _mean(verdict.consistent for verdict in verdicts if verdict.dims),
        "first_position_rate": _mean([*(it.side == 0 for it in assessments), *(it.side == 0 for it in verdicts)]),
        "personalised_categories": _mean(len(assessment.personalised) for assessment in assessments),
        "left_out_categories": _mean(assessment.left_out for assessment in assessments),
        "left_out_dimensions": _mean(verdict.left_out for verdict in verdicts),
        "failure_share": _share(kinds.total(), len(outcomes)),
        **shares,
    }


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return _share(sum(found), len(found))


def _share(part: float, whole: int) -> float:
    return part / whole if whole else float("nan")
