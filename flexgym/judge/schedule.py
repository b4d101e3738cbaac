"""Schedules: which samples of a group meet, and which of the two is shown first.

A judge prefers a side. In every schedule but `AllUnbalanced` each sample stands first about as often as second, so that
the preference cancels at no extra cost.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexgym.core.errors import ConfigError
from flexgym.core.options import check_count, make_choice
from flexgym.judge.aggregation import win_rates

Pairs = NDArray[np.intp]
"""int ``[M, 2]``: index of the sample shown first, index of the one shown second."""


class Schedule(ABC):
    """Who meets whom in one group, in one round or in several that follow on each other's verdicts."""

    @property
    def num_rounds(self) -> int:
        """How often `draw` is called."""
        return 1

    @abstractmethod
    def draw(
        self, group_size: int, rng: np.random.Generator, *, played: Pairs, wins: NDArray[np.float64]
    ) -> NDArray[np.intp]:
        """The pairs of the next round.

        Args:
            group_size: G, at least 2.
            rng: the group's own, for all of its rounds.
            played: int ``[M, 2]``, the pairs of earlier rounds.
            wins: ``[M]``, 1.0 where the first of the pair won, 0.0 where the second did, NaN where judging failed.

        Returns:
            int ``[m, 2]``; may be empty when nobody is left to meet.
        """


@dataclass(frozen=True)
class All(Schedule):
    """Every pair once, in G (G - 1) / 2 comparisons."""

    def draw(
        self, group_size: int, rng: np.random.Generator, *, played: Pairs, wins: NDArray[np.float64]
    ) -> NDArray[np.intp]:
        """See `all_pairs`."""
        return all_pairs(group_size)


@dataclass(frozen=True)
class AllUnbalanced(Schedule):
    """Every pair once and the lower index always first, as in the authors' code; for comparison, not for use."""

    def draw(
        self, group_size: int, rng: np.random.Generator, *, played: Pairs, wins: NDArray[np.float64]
    ) -> NDArray[np.intp]:
        """The combinations of two in their usual order."""
        return np.stack(np.triu_indices(group_size, 1), axis=1)


@dataclass(frozen=True)
class Regular(Schedule):
    """Every sample meets ``k`` others, drawn anew for each group, in k G / 2 comparisons.

    Attributes:
        k: opponents of each sample; in a group with no more of them everyone meets everyone.
    """

    k: int = 6

    def __post_init__(self) -> None:
        check_count("k of schedule 'regular'", self.k)

    def draw(
        self, group_size: int, rng: np.random.Generator, *, played: Pairs, wins: NDArray[np.float64]
    ) -> NDArray[np.intp]:
        """A circle of the samples in random order, on which each meets its nearest neighbours.

        Raises:
            ConfigError: when k and the group size are both odd, since one sample would be left over.
        """
        degree = min(self.k, group_size - 1)
        if degree * group_size % 2:
            raise ConfigError(
                f"regular({self.k}) leaves one of {group_size} samples over: take regular({self.k + 1}) or an even"
                " group_size"
            )
        return rng.permutation(group_size)[_circle(group_size, degree)]


@dataclass(frozen=True)
class Swiss(Schedule):
    """Rounds in which neighbours in the ranking so far meet, in about ``rounds`` G / 2 comparisons.

    Each round waits for the verdicts of the last. No two meet twice; who has no opponent left in a round sits it out.

    Attributes:
        rounds: comparisons of each sample, at most.
    """

    rounds: int = 4

    def __post_init__(self) -> None:
        check_count("rounds of schedule 'swiss'", self.rounds)

    @property
    def num_rounds(self) -> int:
        """As set."""
        return self.rounds

    def draw(
        self, group_size: int, rng: np.random.Generator, *, played: Pairs, wins: NDArray[np.float64]
    ) -> NDArray[np.intp]:
        """Everyone in the order of win rates meets the next one that is still unknown."""
        rates = np.nan_to_num(win_rates(played, wins[:, None], group_size)[:, 0], nan=0.5)
        ranking = np.lexsort((rng.random(group_size), -rates)).tolist()
        firsts, seconds = (np.bincount(played[:, side], minlength=group_size) for side in (0, 1))
        if group_size % 2:
            ranking.remove(max(reversed(ranking), key=lambda sample: firsts[sample] + seconds[sample]))
        met = np.zeros((group_size, group_size), dtype=bool)
        met[played, played[:, ::-1]] = True
        # Who stood first less often does so now. Chance decides between equals: their rank would favour the better one.
        seniority = firsts - seconds + 0.5 * rng.random(group_size)
        drawn = []
        while ranking:
            sample = ranking.pop(0)
            opponent = next((other for other in ranking if not met[sample, other]), None)
            if opponent is not None:
                ranking.remove(opponent)
                drawn.append(sorted((sample, opponent), key=lambda each: seniority[each]))
        return np.array(drawn, dtype=np.intp).reshape(-1, 2)


@dataclass(frozen=True)
class Anchor(Schedule):
    """Everyone meets the same ``m`` samples, drawn from the group, in about m G comparisons.

    Attributes:
        m: number of anchors.
    """

    m: int = 2

    def __post_init__(self) -> None:
        check_count("m of schedule 'anchor'", self.m)

    def draw(
        self, group_size: int, rng: np.random.Generator, *, played: Pairs, wins: NDArray[np.float64]
    ) -> NDArray[np.intp]:
        """The first m of a random order meet all that come after them."""
        pairs = np.stack(np.triu_indices(group_size, 1), axis=1)
        pairs = pairs[pairs[:, 0] < self.m]
        turned = pairs.sum(axis=1) % 2 == 0
        return rng.permutation(group_size)[np.where(turned[:, None], pairs[:, ::-1], pairs)]


SCHEDULES: Mapping[str, type[Schedule]] = {
    "all": All,
    "all_unbalanced": AllUnbalanced,
    "anchor": Anchor,
    "regular": Regular,
    "swiss": Swiss,
}
"""The schedules by the name that a recipe uses."""


def make_schedule(value: Schedule | str | Mapping[str, Any]) -> Schedule:
    """The schedule that a setting names.

    Args:
        value: such as ``"all"``, ``"regular(6)"`` or ``{"name": "swiss", "rounds": 4}``, or a schedule.

    Raises:
        ConfigError: in no such form, or a number that cannot work.
        UnknownNameError: no schedule or setting of that name.
    """
    return make_choice("schedule", value, base=Schedule, known=SCHEDULES)  # type: ignore[type-abstract]


def all_pairs(group_size: int) -> NDArray[np.intp]:
    """Every pair of a group once, with balanced sides.

    Sample i stands first against the next (G-1)//2 samples around the circle. With an odd G each stands first exactly
    as often as second; with an even G everyone has an odd number of comparisons, and both counts differ by one.

    Args:
        group_size: G, at least 2.

    Returns:
        int ``[G*(G-1)/2, 2]``: index of the sample shown first, index of the one shown second.

    Raises:
        ConfigError: if the group is too small to compare anything.
    """
    check_group_size(group_size)
    return _circle(group_size, group_size - 1)


def reference_pairs(group_size: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Each sample i against its reference, which has the index G + i; they take turns in standing first.

    Args:
        group_size: G.
        rng: says who begins, so that an odd group favours neither in the long run.

    Returns:
        int ``[G, 2]``.
    """
    samples = np.arange(group_size)
    pairs = np.stack([samples, samples + group_size], axis=1)
    turned = (samples + rng.integers(2)) % 2 == 1
    return np.where(turned[:, None], pairs[:, ::-1], pairs)


def check_group_size(group_size: int) -> None:
    """Refuse a group in which there is nothing to compare.

    Raises:
        ConfigError: below 2.
    """
    if group_size < 2:
        raise ConfigError(f"a tournament needs group_size >= 2, got {group_size}")


def _circle(group_size: int, degree: int) -> NDArray[np.intp]:
    """On a circle, each sample first against the ``degree // 2`` ahead; with an odd degree, also who faces whom."""
    samples, steps = np.arange(group_size), np.arange(1, degree // 2 + 1)
    pairs = np.stack([np.repeat(samples, len(steps)), np.add.outer(samples, steps).ravel() % group_size], axis=1)
    if degree % 2 == 0:
        return pairs
    near = samples[: group_size // 2]
    facing = np.stack([near, near + group_size // 2], axis=1)
    # They take turns in standing first.
    return np.concatenate([pairs, np.where((near % 2 == 0)[:, None], facing, facing[:, ::-1])])
