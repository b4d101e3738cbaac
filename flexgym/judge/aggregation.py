"""Aggregation: the verdicts of a group's pairs as one rate for each sample.

Every verdict is a number from 0 (the second of the pair wins) to 1 (the first does), NaN where there is none: where the
judgement failed, and for the categories of a judge that knows none. There are four kinds: the overall winner and the
anchor categories A, B and C. Rates lie between 0 and 1 as well, so that all kinds can be blended.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

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
    """Share of its comparisons that a sample wins; the paper's choice."""

    def verdicts(self, outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
        """What counts of the judgements, ``[M, 4]``; see `pair_wins`."""
        return pair_wins(outcomes)

    def rates(self, pairs: NDArray[np.intp], verdicts: NDArray[np.float64], group_size: int) -> NDArray[np.float64]:
        """One rate for each sample and kind of verdict, ``[G, 4]``; see `win_rates`."""
        return win_rates(pairs, verdicts, group_size)


@dataclass(frozen=True)
class Margin(WinRate):
    """Share of the points that a sample gets in its comparisons: a narrow win counts for less than a clear one."""

    def verdicts(self, outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
        """See `pair_shares`."""
        return pair_shares(outcomes)


@dataclass(frozen=True)
class BradleyTerry(WinRate):
    """Chance of a sample to win against the others, by a model fitted to all comparisons.

    It knows whom a sample has met, which helps where schedules are irregular, as with anchors.

    Attributes:
        ridge: precision of the prior of the strengths, which keeps them finite; see `bradley_terry`.
        order: whether the model has a term for the judge's preference for a side, which helps where sides are not
            balanced.
    """

    ridge: float = 0.3
    order: bool = False

    def __post_init__(self) -> None:
        if not self.ridge > 0:
            raise ConfigError(f"ridge of bradley_terry must be positive, got {self.ridge}")

    def rates(self, pairs: NDArray[np.intp], verdicts: NDArray[np.float64], group_size: int) -> NDArray[np.float64]:
        """Mean chance against each of the others; NaN for a sample without a valid comparison."""
        rates = np.full((group_size, verdicts.shape[1]), np.nan)
        for kind, column in enumerate(verdicts.T):
            valid = ~np.isnan(column)
            strengths, _ = bradley_terry(pairs[valid], column[valid], group_size, ridge=self.ridge, order=self.order)
            chances = expit(np.subtract.outer(strengths, strengths))
            met = np.unique(pairs[valid])
            rates[met, kind] = (chances[met].sum(axis=1) - 0.5) / (group_size - 1)
        return rates


AGGREGATIONS: Mapping[str, type[WinRate]] = {"bradley_terry": BradleyTerry, "margin": Margin, "win_rate": WinRate}
"""The aggregations by the name that a recipe uses."""


def make_aggregation(value: WinRate | str | Mapping[str, Any]) -> WinRate:
    """The aggregation that a setting names.

    Args:
        value: such as ``"win_rate"`` or ``{"name": "bradley_terry", "order": True}``, or an aggregation.

    Raises:
        ConfigError: in no such form, or a number that cannot work.
        UnknownNameError: no aggregation or setting of that name.
    """
    return make_choice("aggregation", value, base=WinRate, known=AGGREGATIONS)


def pair_wins(outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
    """The winners as numbers.

    Args:
        outcomes: one per pair, M in all.

    Returns:
        float64 ``[M, 4]``: 1.0 where the first of the pair wins, 0.0 where the second does, all NaN where the
        judgement failed. Column 0 is the overall winner, columns 1-3 are the anchor categories A, B and C, NaN for a
        `Verdict`, which has none.
    """
    wins = np.full((len(outcomes), _NUM_VERDICTS), np.nan)
    for row, outcome in enumerate(outcomes):
        if not isinstance(outcome, JudgeFailure):
            sides = [outcome.side, *(anchor.side for anchor in outcome.anchors)]
            wins[row, : len(sides)] = 1.0 - np.array(sides)
    return wins


def pair_shares(outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
    """The scores of the sub-dimensions as the first sample's share of the points; winners do not matter.

    Args:
        outcomes: one per pair, M in all.

    Returns:
        float64 ``[M, 4]`` in 0..1, all NaN where the judgement failed. Column 0 is the mean over all categories, also
        the personalised ones, columns 1-3 are the anchor categories. For a `Verdict` column 0 is the mean over its
        dimensions, NaN without any, and columns 1-3 are NaN.
    """
    shares = np.full((len(outcomes), _NUM_VERDICTS), np.nan)
    for row, outcome in enumerate(outcomes):
        if isinstance(outcome, Verdict) and outcome.dims:
            shares[row, 0] = sum(dim.share for dim in outcome.dims) / len(outcome.dims)
        elif isinstance(outcome, Assessment):
            overall = sum(map(_share, outcome.categories)) / len(outcome.categories)
            shares[row] = [overall, *map(_share, outcome.anchors)]
    return shares


def _share(category: Category) -> float:
    return 0.5 + category.score_margin / (2.0 * SCORE_SUM * len(category.dims))


def win_rates(pairs: NDArray[np.intp], first_wins: NDArray[np.float64], group_size: int) -> NDArray[np.float64]:
    """Win rate of each sample over its valid comparisons.

    Args:
        pairs: int ``[M, 2]``, who stood first and who second.
        first_wins: ``[M, K]`` in 0..1, NaN where the comparison is not valid, for K kinds of verdict.
        group_size: G.

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
    """Strengths under which the verdicts are most likely (Bradley and Terry 1952), by Newton's method.

    The model is ``P(i shown first beats j) = sigmoid(s_i - s_j + b)``, with ``b`` 0 unless asked for, and a normal
    prior of precision ``ridge`` on every unknown, so that there is always exactly one solution.

    Args:
        pairs: int ``[M, 2]``, who stood first and who second.
        first_wins: ``[M]`` in 0..1; shares of a win count as such.
        group_size: G.
        ridge: precision of the prior, above 0.
        order: whether ``b``, the preference for the first side, is fitted as well.

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
        chance = expit(design @ unknown)
        gradient = design.T @ (first_wins - chance) - ridge * unknown
        curvature = (design.T * (chance * (1.0 - chance))) @ design + ridge * np.eye(len(unknown))
        step = np.linalg.solve(curvature, gradient)
        # Far from the solution the full step may overshoot.
        unknown += step * min(1.0, _LARGEST_STEP / max(np.abs(step).max(), _TOLERANCE))
        if np.abs(step).max() < _TOLERANCE:
            break
    return unknown[:group_size], float(unknown[group_size:].sum())
