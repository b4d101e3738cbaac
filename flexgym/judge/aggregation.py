"""Aggregate the pairwise verdicts of a group into one rate per sample.

A verdict is a number in ``[0, 1]``: 1 if the first sample of the pair wins, 0 if the second does, NaN if the judgment
failed or the judge does not report that kind of verdict. There are four kinds: the overall winner and the anchor
categories A, B and C. Rates lie in ``[0, 1]`` as well, so all kinds can be blended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexgym.core.errors import ConfigError
from flexgym.core.options import make_choice
from flexgym.judge.assessment import ANCHOR_KEYWORDS, SCORE_SUM, Assessment, Category
from flexgym.judge.protocol import JudgeFailure, Outcome
from flexgym.judge.verdict import Verdict

_NUM_VERDICTS = 1 + len(ANCHOR_KEYWORDS)
_NEWTON_STEPS = 50
_LARGEST_STEP = 2.0
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class WinRate:
    """Share of its comparisons that each sample wins, as in the UnifiedReward-Flex paper (arXiv 2602.02380)."""

    def verdicts(self, outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
        """Return the winners as numbers, float64 ``[M, 4]``; see `pair_wins`."""
        return pair_wins(outcomes)

    def rates(self, pairs: NDArray[np.intp], verdicts: NDArray[np.float64], group_size: int) -> NDArray[np.float64]:
        """Return one rate per sample and kind of verdict, float64 ``[G, 4]``; see `win_rates`."""
        return win_rates(pairs, verdicts, group_size)


@dataclass(frozen=True)
class Margin(WinRate):
    """Share of the points that each sample gets in its comparisons, so a narrow win counts less than a clear one."""

    def verdicts(self, outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
        """Return each first sample's share of the points, float64 ``[M, 4]``; see `pair_shares`."""
        return pair_shares(outcomes)


@dataclass(frozen=True)
class BradleyTerry(WinRate):
    """Probability that a sample beats the others under a Bradley-Terry model fitted to all comparisons.

    The model accounts for the strength of each opponent, which helps with irregular schedules such as anchors.

    Attributes:
        ridge: precision of the Gaussian prior over strengths, which keeps them finite; see `bradley_terry`.
        order: fit the judge's position bias as well, which helps if samples are not shown first and second equally
            often.
    """

    ridge: float = 0.3
    order: bool = False

    def __post_init__(self) -> None:
        if not self.ridge > 0:
            raise ConfigError(f"ridge of bradley_terry must be positive, got {self.ridge}")

    def rates(self, pairs: NDArray[np.intp], verdicts: NDArray[np.float64], group_size: int) -> NDArray[np.float64]:
        """Return the mean probability of beating each other sample, NaN for samples without a valid comparison."""
        rates = np.full((group_size, verdicts.shape[1]), np.nan)
        for kind, column in enumerate(verdicts.T):
            valid = ~np.isnan(column)
            strengths, _ = bradley_terry(pairs[valid], column[valid], group_size, ridge=self.ridge, order=self.order)
            chances = _sigmoid(np.subtract.outer(strengths, strengths))
            met = np.unique(pairs[valid])
            rates[met, kind] = (chances[met].sum(axis=1) - 0.5) / (group_size - 1)
        return rates


AGGREGATIONS: Mapping[str, type[WinRate]] = {"bradley_terry": BradleyTerry, "margin": Margin, "win_rate": WinRate}
"""Aggregations by the name used in recipes."""


def make_aggregation(value: WinRate | str | Mapping[str, Any]) -> WinRate:
    """Build the aggregation named by a setting.

    Args:
        value: a name such as ``"win_rate"``, a mapping such as ``{"name": "bradley_terry", "order": True}``, or an
            aggregation, which is returned unchanged.

    Raises:
        ConfigError: if the value has none of these forms, or a number is out of range.
        UnknownNameError: if no aggregation or setting has the given name.
    """
    return make_choice("aggregation", value, base=WinRate, known=AGGREGATIONS)


def pair_wins(outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
    """Convert the winners of all judgments to numbers.

    Args:
        outcomes: one outcome per pair, M in total.

    Returns:
        float64 ``[M, 4]``: 1.0 if the first sample of the pair wins, 0.0 if the second does. Column 0 is the overall
        winner; columns 1-3 are the anchor categories A, B and C, which are NaN for a `Verdict`, since it has no
        categories. A tie is 0.5 in column 0. Rows of other failed judgments are NaN.
    """
    wins = np.full((len(outcomes), _NUM_VERDICTS), np.nan)
    for row, outcome in enumerate(outcomes):
        if isinstance(outcome, JudgeFailure):
            wins[row, 0] = 0.5 if outcome.kind == "tie" else np.nan
        else:
            sides = [outcome.side, *(anchor.side for anchor in outcome.anchors)]
            wins[row, : len(sides)] = 1.0 - np.array(sides)
    return wins


def pair_shares(outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
    """Convert sub-dimension scores to the first sample's share of the points, ignoring the stated winners.

    Args:
        outcomes: one outcome per pair, M in total.

    Returns:
        float64 ``[M, 4]`` in ``[0, 1]``. For an `Assessment`, column 0 is the mean over all categories, including
        personalized ones, and columns 1-3 are the anchor categories; a category whose scores were all set aside is NaN
        and left out of the mean. For a `Verdict`, column 0 is the mean over its
        dimensions (NaN if it has none) and columns 1-3 are NaN. A tie is 0.5 in column 0. Rows of other failed
        judgments are NaN.
    """
    shares = np.full((len(outcomes), _NUM_VERDICTS), np.nan)
    for row, outcome in enumerate(outcomes):
        if isinstance(outcome, JudgeFailure):
            shares[row, 0] = 0.5 if outcome.kind == "tie" else np.nan
        elif isinstance(outcome, Verdict) and outcome.dims:
            shares[row, 0] = sum(dim.share for dim in outcome.dims) / len(outcome.dims)
        elif isinstance(outcome, Assessment):
            scored = [category for category in outcome.categories if category.dims]
            overall = sum(map(_share, scored)) / len(scored) if scored else np.nan
            shares[row] = [overall, *map(_share, outcome.anchors)]
    return shares


def _share(category: Category) -> float:
    if not category.dims:
        return float("nan")
    return 0.5 + category.score_margin / (2.0 * SCORE_SUM * len(category.dims))


def win_rates(pairs: NDArray[np.intp], first_wins: NDArray[np.float64], group_size: int) -> NDArray[np.float64]:
    """Compute the win rate of each sample over its valid comparisons.

    Args:
        pairs: int ``[M, 2]``, indices of the samples shown first and second.
        first_wins: ``[M, K]`` in ``[0, 1]`` for K kinds of verdict, NaN where a comparison is not valid.
        group_size: number of samples G.

    Returns:
        float64 ``[G, K]``; NaN for a sample without a valid comparison.
    """
    valid = ~np.isnan(first_wins)
    points = np.where(valid, first_wins, 0.0)
    wins = np.zeros((group_size, first_wins.shape[1]))
    played = np.zeros_like(wins)
    np.add.at(wins, pairs[:, 0], points)
    np.add.at(wins, pairs[:, 1], valid - points)
    np.add.at(played, pairs, valid[:, None])
    return np.divide(wins, played, out=np.full_like(wins, np.nan), where=played > 0)


def bradley_terry(
    pairs: NDArray[np.intp], first_wins: NDArray[np.float64], group_size: int, *, ridge: float, order: bool = False
) -> tuple[NDArray[np.float64], float]:
    """Fit Bradley-Terry strengths (Bradley and Terry, 1952) to pairwise results by Newton's method.

    The model is ``P(i shown first beats j) = sigmoid(s_i - s_j + b)``, where ``b`` is 0 unless ``order`` is set. A
    Gaussian prior with precision ``ridge`` on every unknown makes the solution unique.

    Args:
        pairs: int ``[M, 2]``, indices of the samples shown first and second.
        first_wins: ``[M]`` in ``[0, 1]``; fractions count as partial wins.
        group_size: number of samples G.
        ridge: precision of the prior, above 0.
        order: also fit ``b``, the preference for the sample shown first.

    Returns:
        The strengths s, float64 ``[G]`` with sum 0, and ``b``.
    """
    design = np.zeros((len(pairs), group_size + order))
    rows = np.arange(len(pairs))
    design[rows, pairs[:, 0]] = 1.0
    design[rows, pairs[:, 1]] = -1.0
    design[:, group_size:] = 1.0
    unknown = np.zeros(design.shape[1])
    for _ in range(_NEWTON_STEPS):
        chance = _sigmoid(design @ unknown)
        gradient = design.T @ (first_wins - chance) - ridge * unknown
        curvature = (design.T * (chance * (1.0 - chance))) @ design + ridge * np.eye(len(unknown))
        step = np.linalg.solve(curvature, gradient)
        # Limit the step size, since a full Newton step can overshoot far from the solution.
        unknown += step * min(1.0, _LARGEST_STEP / max(np.abs(step).max(), _TOLERANCE))
        if np.abs(step).max() < _TOLERANCE:
            break
    return unknown[:group_size], float(unknown[group_size:].sum())


def _sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the logistic function; SciPy, which takes long to import, waits for the first fit."""
    from scipy.special import expit

    return np.asarray(expit(values))
