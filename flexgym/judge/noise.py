"""Degrade a judge on purpose, to measure how tournaments cope with noise and position bias."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from flexgym.core.errors import ConfigError
from flexgym.judge.assessment import SCORE_SUM, Assessment, Category, Label
from flexgym.judge.protocol import Judge, JudgeFailure, Outcome, Pair
from flexgym.judge.verdict import TOP_SCORE, Verdict

_SCALES = (1e-6, 1e6)
_HALVINGS = 60

Judgment = Assessment | Verdict
"""A judgment that did not fail."""


class NoisyJudge:
    """Add noise and position bias to another judge, so narrow verdicts flip more often than clear ones.

    The sample shown first wins if ``scale * lead + preference + noise > 0``, where ``lead`` is its margin in points
    according to the other judge, ``preference`` favors whichever sample is shown first, and ``noise`` is logistic, so
    the win probability is a sigmoid. Each pair has one noise draw for all of its verdicts: a judge that misreads a pair
    misreads it in every category. Scores shift along with the verdicts. A verdict without dimensions has a lead of 0,
    so its winner is random.

    Args:
        judge: the judge to degrade.
        accuracy: probability that the better sample wins, overall and in each category, before position bias is added;
            at least 0.5 and below 1. It is matched on average over the pairs of the first call.
        first_position_rate: probability that the first of two equal samples wins.
        seed: seed of the noise.

    Raises:
        ConfigError: if ``accuracy`` or ``first_position_rate`` is out of range.
    """

    def __init__(
        self, judge: Judge, *, accuracy: float = 0.8, first_position_rate: float = 0.69, seed: int = 0
    ) -> None:
        if not 0.5 <= accuracy < 1.0:
            raise ConfigError(f"accuracy must be at least 0.5 (guessing) and below 1, got {accuracy}")
        if not 0.0 < first_position_rate < 1.0:
            raise ConfigError(f"first_position_rate must be between 0 and 1, got {first_position_rate}")
        self.judge = judge
        self.accuracy = accuracy
        self.preference = float(logit(first_position_rate))
        self._rng = np.random.default_rng(seed)
        self._scales: tuple[float, float] | None = None

    def assess(self, pairs: Sequence[Pair]) -> list[Outcome]:
        """Judge every pair with added noise; failures are passed through unchanged."""
        outcomes = self.judge.assess(pairs)
        judged = [outcome for outcome in outcomes if not isinstance(outcome, JudgeFailure)]
        scales = self._scales or self._fit(judged)
        noise = self.preference + self._rng.logistic(size=len(outcomes))
        return [
            outcome if isinstance(outcome, JudgeFailure) else _misread(outcome, float(shift), scales)
            for outcome, shift in zip(outcomes, noise, strict=True)
        ]

    def _fit(self, judged: Sequence[Judgment]) -> tuple[float, float]:
        """Fit scales for overall and category leads to match the accuracy; kept from the first call with judgments."""
        if not judged:
            return 1.0, 1.0
        overall = [_overall_lead(judgment) for judgment in judged]
        assessments = [judgment for judgment in judged if isinstance(judgment, Assessment)]
        by_category = [_lead(category) for assessment in assessments for category in assessment.categories]
        self._scales = _scale(np.abs(overall), self.accuracy), _scale(np.abs(by_category), self.accuracy)
        return self._scales


def _lead(category: Category) -> float:
    """Return the points by which the first sample leads, signed to agree with the stated winner."""
    return (1 - 2 * category.side) * abs(category.score_margin)


def _overall_lead(judgment: Judgment) -> float:
    if isinstance(judgment, Verdict):
        return (1 - 2 * judgment.side) * abs(judgment.score_margin)
    return (1 - 2 * judgment.side) * abs(sum(category.score_margin for category in judgment.categories))


def _scale(leads: NDArray[np.float64], accuracy: float) -> float:
    """Find the scale that gives the accuracy by bisection; the nearest bound if none does, 1 if there are no leads."""
    if not len(leads):
        return 1.0
    low, high = np.log(_SCALES)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        reached = expit(np.exp(middle) * leads).mean() >= accuracy
        low, high = (low, middle) if reached else (middle, high)
    return float(np.exp(high))


def _misread(judgment: Judgment, shift: float, scales: tuple[float, float]) -> Judgment:
    winner = _label(judgment.winner, scales[0] * _overall_lead(judgment) + shift > 0)
    if isinstance(judgment, Verdict):
        return _misread_verdict(judgment, shift / scales[0], winner)
    categories = tuple(_misread_category(category, shift / scales[1]) for category in judgment.categories)
    return judgment.model_copy(update={"categories": categories, "winner": winner})


def _misread_verdict(verdict: Verdict, points: float, winner: Label) -> Verdict:
    """Move the first sample ahead by the given number of points, within the range of scores."""
    each = points / (2 * max(len(verdict.dims), 1))
    dims = tuple(
        dataclasses.replace(dim, score_1=_bounded(dim.score_1 + each), score_2=_bounded(dim.score_2 - each))
        for dim in verdict.dims
    )
    return dataclasses.replace(verdict, winner=winner, dims=dims)


def _bounded(score: float) -> float:
    return min(max(score, 0.0), TOP_SCORE)


def _misread_category(category: Category, points: float) -> Category:
    """Move the first sample ahead by the given number of points, within the range of scores."""
    each = points / (2 * max(len(category.dims), 1))
    scores = [min(max(dim.score_1 + each, 0.0), SCORE_SUM) for dim in category.dims]
    dims = tuple(
        dim.model_copy(update={"score_1": score, "score_2": SCORE_SUM - score})
        for dim, score in zip(category.dims, scores, strict=True)
    )
    return category.model_copy(
        update={"dims": dims, "cat_winner": _label(category.cat_winner, _lead(category) + points > 0)}
    )


def _label(label: Label, first_wins: bool) -> Label:
    return f"{label[:-1]}{1 if first_wins else 2}"  # type: ignore[return-value]
