"""Training pairs of samples: from the comparisons of a judge, from rewards, or from both (UnifiedReward).

A pair is (winner, loser). Pairs of several groups are rows of int ``[N, 2]`` with flat indices ``p * G + i``, so they
index tensors ``[P, G, ...]`` after ``flatten(0, 1)``. Ties, missing comparisons and groups without differences give no
pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flexgym.core.errors import ConfigError

Dropped = Literal["", "no decided pair", "no score", "margin"]


def win_matrix(pairs: ArrayLike, first_wins: ArrayLike, group_size: int) -> NDArray[np.float64]:
    """Collect the verdicts of a group, such as those of a tournament.

    Args:
        pairs: int ``[M, 2]``, indices of the samples shown first and second. A pair may occur several times, in both
            orders.
        first_wins: ``[M]``, 1 if the first of the pair won, 0 if the second did, 0.5 for a tie, NaN for a failure.
        group_size: number of samples G; comparisons with indices from G on, such as references, are left out.

    Returns:
        float64 ``[G, G]``: share of their comparisons that the row's sample won against the column's; NaN where the two
        were not compared.

    Raises:
        ConfigError: the shapes do not match.
    """
    rows, wins = np.asarray(pairs, dtype=np.intp), np.asarray(first_wins, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1:] != (2,) or wins.shape != rows.shape[:1]:
        raise ConfigError(f"expected pairs [M, 2] and first_wins [M], got {list(rows.shape)} and {list(wins.shape)}")
    kept = ~np.isnan(wins) & (rows < group_size).all(axis=1)
    rows, wins = rows[kept], wins[kept]
    points = np.zeros((group_size, group_size))
    played = np.zeros_like(points)
    np.add.at(points, (rows[:, 0], rows[:, 1]), wins)
    np.add.at(points, (rows[:, 1], rows[:, 0]), 1.0 - wins)
    for side in (rows, rows[:, ::-1]):
        np.add.at(played, (side[:, 0], side[:, 1]), 1.0)
    return np.divide(points, played, out=np.full_like(points, np.nan), where=played > 0)


def decided_pairs(wins: ArrayLike, *, margin: float = 0.0) -> NDArray[np.intp]:
    """Return every pair of samples that was decided, in the order of their indices.

    Args:
        wins: ``[P, G, G]`` (or ``[G, G]``), share that the row's sample won against the column's, see `win_matrix`.
        margin: a pair is decided if the winner's share exceeds the loser's by more than this, from 0 to below 1.

    Returns:
        int ``[N, 2]``: flat indices of winner and loser.

    Raises:
        ConfigError: the matrices are not square, or the margin is out of range.
    """
    table = np.asarray(wins, dtype=np.float64)
    if table.ndim not in (2, 3) or table.shape[-1] != table.shape[-2]:
        raise ConfigError(f"expected win matrices [P, G, G], got {list(table.shape)}")
    if not 0 <= margin < 1:
        raise ConfigError(f"margin of decided pairs must be from 0 to below 1, got {margin}")
    table = table.reshape(-1, *table.shape[-2:])
    group, winner, loser = np.nonzero(table - table.swapaxes(1, 2) > margin)  # False where NaN
    return np.stack([winner, loser], axis=1) + (group * table.shape[-1])[:, None]


def score_pairs(scores_PG: ArrayLike, *, margin: float = 0.0) -> NDArray[np.intp]:
    """Return every pair of samples of a group whose scores differ.

    Args:
        scores_PG: ``[P, G]``, higher is better, NaN where unscored.
        margin: difference that must be exceeded, at least 0.

    Returns:
        int ``[N, 2]``: flat indices of winner and loser.

    Raises:
        ConfigError: the scores are not two-dimensional, or the margin is negative.
    """
    scores = _scores(scores_PG)
    if not margin >= 0:
        raise ConfigError(f"margin of the scores must be at least 0, got {margin}")
    group, winner, loser = np.nonzero(scores[:, :, None] - scores[:, None, :] > margin)
    return np.stack([winner, loser], axis=1) + (group * scores.shape[1])[:, None]


def extreme_pairs(scores_PG: ArrayLike) -> NDArray[np.intp]:
    """Return the best against the worst sample of each group, the choice of online DPO in flow_grpo and verl-omni.

    Args:
        scores_PG: ``[P, G]``, such as win rates; higher is better, NaN where unscored.

    Returns:
        int ``[N, 2]``: flat indices of winner and loser, the first of equals; groups whose scores are all equal, or
        that have fewer than two, have no row.

    Raises:
        ConfigError: the scores are not two-dimensional.
    """
    scores = _scores(scores_PG)
    lowest = np.where(np.isnan(scores), np.inf, scores)
    highest = np.where(np.isnan(scores), -np.inf, scores)
    groups = np.flatnonzero(lowest.min(axis=1, initial=np.inf) < highest.max(axis=1, initial=-np.inf))
    best, worst = highest[groups].argmax(axis=1), lowest[groups].argmin(axis=1)
    return np.stack([best, worst], axis=1) + (groups * scores.shape[1])[:, None]


@dataclass(frozen=True)
class Sifted:
    """Outcome of `sift` for one prompt.

    Attributes:
        pair: indices of the chosen and the rejected candidate; None if the prompt is dropped.
        dropped: why the prompt is dropped: ``"no decided pair"``, ``"no score"`` of a candidate that could be chosen or
            rejected, or the scores differ too little, ``"margin"``. Empty if it is kept.
    """

    pair: tuple[int, int] | None
    dropped: Dropped = ""


def sift(pairs: Sequence[tuple[int, int]], scores: Sequence[int | None], *, min_margin: int = 1) -> Sifted:
    """Choose one training pair for a prompt in two stages, pair ranking and point sifting (UnifiedReward).

    See arXiv 2503.05236: the candidates are compared in disjoint pairs, then each gets a score. The chosen one is the
    winner with the highest score, the rejected one the loser with the lowest, the first of equals. Scores are compared
    as numbers; the authors' script compares them as text, in which "9" exceeds "10".

    Args:
        pairs: (winner, loser) of each decided comparison, indices of candidates; leave out ties and failures.
        scores: of each candidate, higher is better; None where the judge gave no score.
        min_margin: how much the chosen score must at least exceed the rejected one; the paper's rule is 1.

    Returns:
        The pair, or why there is none.

    Raises:
        ConfigError: the margin is below 1, or a pair names a candidate without an entry in the scores.
    """
    if min_margin < 1:
        raise ConfigError(f"min_margin must be at least 1, got {min_margin}: the chosen candidate must score higher")
    named = [index for pair in pairs for index in pair]
    if any(not 0 <= index < len(scores) for index in named):
        raise ConfigError(f"expected candidates 0 to {len(scores) - 1}, one for each score, got pairs {list(pairs)}")
    if not pairs:
        return Sifted(None, "no decided pair")
    winners, losers = (
        [(score, pair[side]) for pair in pairs if (score := scores[pair[side]]) is not None] for side in (0, 1)
    )
    if not winners or not losers:
        return Sifted(None, "no score")
    chosen, rejected = max(winners, key=lambda each: each[0]), min(losers, key=lambda each: each[0])
    if chosen[0] - rejected[0] < min_margin:
        return Sifted(None, "margin")
    return Sifted((chosen[1], rejected[1]))


def _scores(values: ArrayLike) -> NDArray[np.float64]:
    scores = np.asarray(values, dtype=np.float64)
    if scores.ndim != 2:
        raise ConfigError(f"expected scores [P, G], one row per prompt, got {list(scores.shape)}")
    return scores
