"""A judge made worse on purpose, to see what a tournament makes of noise and of a preference for a side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from flexgym.errors import ConfigError
from flexgym.judge.assessment import SCORE_SUM, Assessment, Category
from flexgym.judge.protocol import Judge, Outcome, Pair

_SCALES = (1e-6, 1e6)
_HALVINGS = 60


class NoisyJudge:
    """Misreads what another judge sees, so that narrow verdicts turn round more often than clear ones.

    The first of a pair wins where ``scale * lead + preference + noise > 0``: the lead is its margin in points by the
    other judge, the preference is for whoever stands first, and the noise is logistic, so that the chance is a sigmoid.
    There is one draw for all verdicts about a pair: a judge that misreads a pair misreads it in every category. Its
    scores move with what it believes to see.

    Args:
        judge: who gives the verdicts.
        accuracy: how often the better one wins, for the overall winner and for the categories, but for the preference;
            at least 0.5. It holds on average over the pairs of the first call.
        first_position_rate: how often the first of two equal samples wins.
        seed: of the noise.

    Raises:
        ConfigError: if one of the shares lies outside its bounds.
    """

    def __init__(
        self, judge: Judge, *, accuracy: float = 0.8, first_position_rate: float = 0.69, seed: int = 0
    ) -> None:
        if not 0.5 <= accuracy < 1.0:
            raise ConfigError(f"accuracy must be at least 0.5 (guessing) and below 1, got {accuracy}")
        if not 0.0 < first_position_rate < 1.0:
            raise ConfigError(f"first_position_rate must lie between 0 and 1, got {first_position_rate}")
        self.judge = judge
        self.accuracy = accuracy
        self.preference = float(logit(first_position_rate))
        self._rng = np.random.default_rng(seed)
        self._scales: tuple[float, float] | None = None

    def assess(self, pairs: Sequence[Pair]) -> list[Outcome]:
        """Judge every pair; failures stay as they are."""
        outcomes = self.judge.assess(pairs)
        scales = self._scales or self._fit([outcome for outcome in outcomes if isinstance(outcome, Assessment)])
        noise = self.preference + self._rng.logistic(size=len(outcomes))
        return [
            _misread(outcome, float(shift), scales) if isinstance(outcome, Assessment) else outcome
            for outcome, shift in zip(outcomes, noise, strict=True)
        ]

    def _fit(self, assessments: Sequence[Assessment]) -> tuple[float, float]:
        """Scales of the leads overall and by category that give the accuracy; kept from the first call that has any."""
        if not assessments:
            return 1.0, 1.0
        overall = [_overall_lead(assessment) for assessment in assessments]
        by_category = [_lead(category) for assessment in assessments for category in assessment.categories]
        self._scales = _scale(np.abs(overall), self.accuracy), _scale(np.abs(by_category), self.accuracy)
        return self._scales


def _lead(category: Category) -> float:
    """Points by which the first leads, in the direction of the stated winner."""
    return (1 - 2 * category.side) * abs(category.score_margin)


def _overall_lead(assessment: Assessment) -> float:
    return (1 - 2 * assessment.side) * abs(sum(category.score_margin for category in assessment.categories))


def _scale(leads: NDArray[np.float64], accuracy: float) -> float:
    """The scale at which the better one wins that often, by bisection; the nearest bound where none does."""
    low, high = np.log(_SCALES)
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        reached = expit(np.exp(middle) * leads).mean() >= accuracy
        low, high = (low, middle) if reached else (middle, high)
    return float(np.exp(high))


def _misread(assessment: Assessment, shift: float, scales: tuple[float, float]) -> Assessment:
    first_wins = scales[0] * _overall_lead(assessment) + shift > 0
    return assessment.model_copy(
        update={
            "categories": tuple(_misread_category(category, shift / scales[1]) for category in assessment.categories),
            "winner": _label(assessment.winner, first_wins),
        }
    )


def _misread_category(category: Category, points: float) -> Category:
    """The category with the first sample so many points further ahead, as far as scores reach."""
    each = points / (2 * len(category.dims))
    scores = [min(max(dim.score_1 + each, 0.0), SCORE_SUM) for dim in category.dims]
    dims = tuple(
        dim.model_copy(update={"score_1": score, "score_2": SCORE_SUM - score})
        for dim, score in zip(category.dims, scores, strict=True)
    )
    return category.model_copy(
        update={"dims": dims, "cat_winner": _label(category.cat_winner, _lead(category) + points > 0)}
    )


def _label(label: str, first_wins: bool) -> str:
    return f"{label[:-1]}{1 if first_wins else 2}"
