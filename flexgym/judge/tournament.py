"""Tournaments: which samples of a group meet, and how verdicts become win rates.

The group reward of Pref-GRPO with UnifiedReward-Flex (arXiv 2602.02380, section 3.3.2, Eq. 9-11)::

    R_d(i)       = share of the comparisons of i in which i wins category d
    R_dim(i)     = mean of R_d(i) over the three anchor categories
    R_overall(i) = share of the comparisons of i that i wins overall

The paper divides by G - 1; here the shares are taken over the comparisons whose judgement is valid, which is the same
when none failed. Personalised categories count through the overall winner, as in the paper.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexgym.errors import ConfigError, RewardError
from flexgym.judge.assessment import ANCHOR_KEYWORDS
from flexgym.judge.protocol import Judge, JudgeFailure, Outcome, Pair
from flexgym.types import GroupScores, SampleGroup

_NUM_VERDICTS = 1 + len(ANCHOR_KEYWORDS)


@dataclass(frozen=True)
class Tournament:
    """How verdicts become the rewards of a group.

    Attributes:
        alpha: weight of R_dim; R_overall has the rest. 0.7 is the paper's choice.
        min_comparisons: a sample with fewer valid comparisons is left unscored (NaN); in a group too small for that
            many opponents, all of them are asked for.
    """

    alpha: float = 0.7
    min_comparisons: int = 2

    def __post_init__(self) -> None:
        if not 0.0 <= self.alpha <= 1.0:
            raise ConfigError(
                f"alpha must lie between 0 (overall winner only) and 1 (categories only), got {self.alpha}"
            )
        if self.min_comparisons < 1:
            raise ConfigError(f"min_comparisons must be at least 1, got {self.min_comparisons}")


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
    if group_size < 2:
        raise ConfigError(f"a tournament needs group_size >= 2, got {group_size}")
    samples = np.arange(group_size)
    steps = np.arange(1, (group_size - 1) // 2 + 1)
    pairs = [np.stack([np.repeat(samples, len(steps)), np.add.outer(samples, steps).ravel() % group_size], axis=1)]
    if group_size % 2 == 0:
        near = samples[: group_size // 2]
        far = near + group_size // 2
        opposite = np.stack([near, far], axis=1)
        # Those who face each other across the circle take turns in standing first.
        pairs.append(np.where((near % 2 == 0)[:, None], opposite, opposite[:, ::-1]))
    return np.concatenate(pairs)


def pair_wins(outcomes: Sequence[Outcome]) -> NDArray[np.float64]:
    """The verdicts as numbers.

    Args:
        outcomes: one per pair, M in all.

    Returns:
        float64 ``[M, 4]``: 1.0 where the first of the pair wins, 0.0 where the second does, all NaN where the
        judgement failed. Column 0 is the overall winner, columns 1-3 are the anchor categories A, B and C.
    """
    wins = np.full((len(outcomes), _NUM_VERDICTS), np.nan)
    for row, outcome in enumerate(outcomes):
        if not isinstance(outcome, JudgeFailure):
            wins[row] = [1.0 - outcome.side, *(1.0 - anchor.side for anchor in outcome.anchors)]
    return wins


def win_rates(
    pairs: NDArray[np.intp], first_wins: NDArray[np.float64], group_size: int, *, min_comparisons: int = 1
) -> NDArray[np.float64]:
    """Win rate of each sample over its valid comparisons.

    Args:
        pairs: int ``[M, 2]``, who stood first and who second.
        first_wins: ``[M, K]`` in 0..1, NaN where the comparison is not valid, for K kinds of verdict.
        group_size: G.
        min_comparisons: a sample with fewer valid comparisons gets NaN.

    Returns:
        float64 ``[G, K]``.
    """
    valid = ~np.isnan(first_wins)
    points = np.where(valid, first_wins, 0.0)
    wins = np.zeros((group_size, first_wins.shape[1]))
    played = np.zeros_like(wins)
    np.add.at(wins, pairs[:, 0], points)
    np.add.at(wins, pairs[:, 1], valid - points)
    np.add.at(played, pairs, valid[:, None])
    return np.divide(wins, played, out=np.full_like(wins, np.nan), where=played >= max(min_comparisons, 1))


def tournament_scores(
    pairs: NDArray[np.intp], outcomes: Sequence[Outcome], group_size: int, *, tournament: Tournament | None = None
) -> GroupScores:
    """The rewards of a group from the judgements of its pairs.

    Args:
        pairs: int ``[M, 2]``, who stood first and who second.
        outcomes: the M judgements, in the order of ``pairs``.
        group_size: G.
        tournament: the settings; the paper's when None.

    Returns:
        Terms ``dim`` and ``overall`` (R_dim and R_overall) with weights alpha and 1 - alpha, their weighted sum as the
        rewards, failures by kind, and all outcomes as assessments. A sample with too few valid comparisons is NaN.

    Raises:
        RewardError: if there is not one judgement per pair.
    """
    settings = tournament or Tournament()
    if len(outcomes) != len(pairs):
        raise RewardError(f"expected one judgement per pair ({len(pairs)}), got {len(outcomes)}")
    needed = min(settings.min_comparisons, group_size - 1)
    rates = win_rates(pairs, pair_wins(outcomes), group_size, min_comparisons=needed)
    overall, dim = rates[:, 0], rates[:, 1:].mean(axis=1)
    return GroupScores(
        rewards=(settings.alpha * dim + (1.0 - settings.alpha) * overall).astype(np.float32),
        terms={"dim": dim.astype(np.float32), "overall": overall.astype(np.float32)},
        weights={"dim": settings.alpha, "overall": 1.0 - settings.alpha},
        failures=dict(Counter(outcome.kind for outcome in outcomes if isinstance(outcome, JudgeFailure))),
        assessments=tuple(outcomes),
    )


def judge_groups(
    judge: Judge, groups: Sequence[SampleGroup], *, tournament: Tournament | None = None
) -> list[GroupScores]:
    """Hold a tournament in every group, with one call to the judge for all of them.

    Args:
        judge: who compares.
        groups: finished samples, G >= 2 each; sizes may differ.
        tournament: the settings; the paper's when None.

    Returns:
        One `GroupScores` per group; its k-th assessment belongs to the k-th row of `all_pairs`.

    Raises:
        ConfigError: if a group holds a single sample.
        RewardError: if the judge does not answer once per pair.
    """
    schedule = [all_pairs(len(group)) for group in groups]
    pairs = [
        Pair(group, int(first), int(second))
        for group, rows in zip(groups, schedule, strict=True)
        for first, second in rows
    ]
    outcomes = judge.assess(pairs)
    if len(outcomes) != len(pairs):
        raise RewardError(f"the judge must answer once per pair: expected {len(pairs)} outcomes, got {len(outcomes)}")
    scores, start = [], 0
    for group, rows in zip(groups, schedule, strict=True):
        mine = outcomes[start : start + len(rows)]
        scores.append(tournament_scores(rows, mine, len(group), tournament=tournament))
        start += len(rows)
    return scores
