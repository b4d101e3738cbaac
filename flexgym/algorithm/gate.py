"""The gate of penalties: they hold the samples whose reward is doubtful, and no others (GARDO, arXiv 2512.24138)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flexgym.flow import GateSchedule, doubtful, overrating
from flexgym.types import GroupScores


def gated_weights(
    schedule: GateSchedule, scores: Sequence[GroupScores], others: Sequence[NDArray[np.float32]]
) -> tuple[GateSchedule, NDArray[np.float32]]:
    """Weigh the samples of an iteration for the penalties that are gated.

    A penalty times these weights is, in the mean over all samples, its mean over the doubtful ones.

    Args:
        schedule: after the iterations before.
        scores: of the reward that is optimized, of P groups of the same size G.
        others: scores of other rewards, each ``[P, G]``.

    Returns:
        The schedule after this iteration, and float32 ``[P, G]``: 0 for samples that are not doubtful or lack a score.
    """
    main = np.stack([group.rewards for group in scores])
    known = np.isfinite([main, *others]).all(axis=0)
    weights = np.zeros(main.shape, np.float32)
    if known.sum() < 2:
        return schedule, weights
    ranked = overrating(main[known], [other[known] for other in others])
    schedule = schedule.after(ranked)
    chosen = doubtful(ranked, schedule.share)
    if chosen.any():
        weights[known] = chosen * np.float32(weights.size / chosen.sum())
    return schedule, weights
