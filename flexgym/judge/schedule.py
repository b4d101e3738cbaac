"""Schedules decide which samples of a group are compared, and which of the two is shown first.

Judges have a position bias. In every schedule but `AllUnbalanced`, each sample is shown first about as often as second,
so the bias cancels out at no extra cost.
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
"""int ``[M, 2]``: indices of the samples shown first and second."""


class Schedule(ABC):
    """Choice of the pairs to compare in one group, in one round or in several that depend on earlier verdicts."""

    @property
    def num_rounds(self) -> int:
        """Return the number of rounds, which is the number of calls to `draw`."""
        return 1

    @abstractmethod
    def draw(
        self, group_size: int, rng: np.random.Generator, *, played: Pairs, wins: NDArray[np.float64]
    ) -> NDArray[np.intp]:
        """Draw the pairs of the next round.

        Args:
            group_size: number of samples G, at least 2.
            rng: random generator of the group, used for all of its rounds.
            played: int ``[M, 2]``, the pairs of earlier rounds.
            wins: ``[M]``, 1.0 if the first of the pair won, 0.0 if the second did, NaN if the judgment failed.

        Returns:
            int ``[m, 2]``; empty if there is nothing left to compare.
        """


@dataclass(frozen=True)
class All(Schedule):
    """Compare every pair once, in G (G - 1) / 2 comparisons."""

    def draw(
        self, group_size: int, rng: np.random.Generator, *, played: Pairs, wins: NDArray[np.float64]
    ) -> NDArray[np.intp]:
        """Return every pair once with balanced positions, see `all_pairs`."""
        return all_pairs(group_size)


@dataclass(frozen=True)
class AllUnbalanced(Schedule):
    """Compare every pair once with the lower index always first, as the authors' code does; use only to compare."""

    def draw(
        self, group_size: int, rng: np.random.Generator, *, played: Pairs, wins: NDArray[np.float64]
    ) -> NDArray[np.intp]:
        """Return all combinations of two samples in lexicographic order."""
        return np.stack(np.triu_indices(group_size, 1), axis=1)


@dataclass(frozen=True)
class Regular(Schedule):
    """Compare every sample with ``k`` others, drawn at random for each group, in k G / 2 comparisons.

    Attributes:
        k: number of opponents of each sample; smaller groups compare every pair.
    """

    k: int = 6

    def __post_init__(self) -> None:
        check_count("k of schedule 'regular'", self.k)

    def draw(
        self, group_size: int, rng: np.random.Generator, *, played: Pairs, wins: NDArray[np.float64]
    ) -> NDArray[np.intp]:
        """Place the samples on a circle in random order and compare each with its nearest neighbors.

        Raises:
            ConfigError: if k and the group size are both odd, since one sample would be left over.
        """
        degree = min(self.k, group_size - 1)
        if degree * group_size % 2:
            raise ConfigError(
                f"regular({self.k}) leaves one of {group_size} samples over: use regular({self.k + 1}) or an even"
                " group_size"
            )
        return rng.permutation(group_size)[_circle(group_size, degree)]


@dataclass(frozen=True)
class Swiss(Schedule):
    """Compare neighbors in the current ranking over several rounds, in about ``rounds`` G / 2 comparisons.

    Each round waits for the verdicts of the previous one. No pair is compared twice; a sample without a remaining
    opponent skips the round.

    Attributes:
        rounds: number of rounds, which is the maximum number of comparisons per sample.
    """

    rounds: int = 4

    def __post_init__(self) -> None:
        check_count("rounds of schedule 'swiss'", self.rounds)

    @property
    def num_rounds(self) -> int:
        """Return the number of rounds, as configured."""
        return self.rounds

    def draw(
        self, group_size: int, rng: np.random.Generator, *, played: Pairs, wins: NDArray[np.float64]
    ) -> NDArray[np.intp]:
        """Go through the samples by win rate and pair each with the next one that it has not met."""
        rates = np.nan_to_num(win_rates(played, wins[:, None], group_size)[:, 0], nan=0.5)
        ranking = np.lexsort((rng.random(group_size), -rates)).tolist()
        firsts, seconds = (np.bincount(played[:, side], minlength=group_size) for side in (0, 1))
        if group_size % 2:
            ranking.remove(max(reversed(ranking), key=lambda sample: firsts[sample] + seconds[sample]))
        met = np.zeros((group_size, group_size), dtype=bool)
        met[played, played[:, ::-1]] = True
        # Show first whichever sample has been first less often; break ties at random, since rank order would favor the
        # stronger one.
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
    """Compare every sample with the same ``m`` anchors, drawn from the group, in about m G comparisons.

    Attributes:
        m: number of anchors.
    """

    m: int = 2

    def __post_init__(self) -> None:
        check_count("m of schedule 'anchor'", self.m)

    def draw(
        self, group_size: int, rng: np.random.Generator, *, played: Pairs, wins: NDArray[np.float64]
    ) -> NDArray[np.intp]:
        """Shuffle the samples and compare the first m with all that come after them."""
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
"""Schedules by the name used in recipes."""


def make_schedule(value: Schedule | str | Mapping[str, Any]) -> Schedule:
    """Build the schedule named by a setting.

    Args:
        value: a name such as ``"all"`` or ``"regular(6)"``, a mapping such as ``{"name": "swiss", "rounds": 4}``, or a
            schedule, which is returned unchanged.

    Raises:
        ConfigError: if the value has none of these forms, or a number is out of range.
        UnknownNameError: if no schedule or setting has the given name.
    """
    return make_choice("schedule", value, base=Schedule, known=SCHEDULES)  # type: ignore[type-abstract]


def all_pairs(group_size: int) -> NDArray[np.intp]:
    """Return every pair of a group once, with balanced positions.

    Sample i is shown first against the next (G - 1) // 2 samples around a circle. With an odd G, each sample is shown
    first exactly as often as second; with an even G, the two counts differ by one.

    Args:
        group_size: number of samples G, at least 2.

    Returns:
        int ``[G * (G - 1) / 2, 2]``: indices of the samples shown first and second.

    Raises:
        ConfigError: if the group has fewer than two samples.
    """
    check_group_size(group_size)
    return _circle(group_size, group_size - 1)


def reference_pairs(group_size: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Pair each sample i with its reference, which has index G + i; samples and references alternate in being first.

    Args:
        group_size: number of samples G.
        rng: decides which one is shown first in the first pair, so odd groups are balanced on average.

    Returns:
        int ``[G, 2]``: indices shown first and second.
    """
    samples = np.arange(group_size)
    pairs = np.stack([samples, samples + group_size], axis=1)
    turned = (samples + rng.integers(2)) % 2 == 1
    return np.where(turned[:, None], pairs[:, ::-1], pairs)


def check_group_size(group_size: int) -> None:
    """Check that a group has at least two samples to compare.

    Raises:
        ConfigError: if it has fewer.
    """
    if group_size < 2:
        raise ConfigError(f"a tournament needs group_size >= 2, got {group_size}")


def _circle(group_size: int, degree: int) -> NDArray[np.intp]:
    """Pair samples on a circle with the ``degree // 2`` next ones; with an odd degree, also with the opposite one."""
    samples, steps = np.arange(group_size), np.arange(1, degree // 2 + 1)
    pairs = np.stack([np.repeat(samples, len(steps)), np.add.outer(samples, steps).ravel() % group_size], axis=1)
    if degree % 2 == 0:
        return pairs
    near = samples[: group_size // 2]
    facing = np.stack([near, near + group_size // 2], axis=1)
    # Alternate which of two opposite samples is shown first.
    return np.concatenate([pairs, np.where((near % 2 == 0)[:, None], facing, facing[:, ::-1])])
