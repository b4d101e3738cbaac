"""Three remedies against reward hacking of GARDO (arXiv 2512.24138), each useful alone.

The advantage rewards diversity, a gate selects the samples whose reward is doubtful, for the KL penalty, and a schedule
adapts how many those are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flexgym.core.errors import ConfigError
from flexgym.flow.advantage import standardized


def diversity(features: ArrayLike) -> NDArray[np.float64]:
    """Compute the distance of each sample from the most similar other one of its group.

    Args:
        features: such as image embeddings (the authors use DINOv3), ``[..., G, F]``; need not be normalized.

    Returns:
        Smallest cosine distance to another sample, in [0, 2], float64 ``[..., G]``.

    Raises:
        ConfigError: a group has fewer than two samples, or a feature is zero or not finite.
    """
    vectors = np.asarray(features, dtype=np.float64)
    if vectors.ndim < 2 or vectors.shape[-2] < 2:
        raise ConfigError(f"expected features [..., G, F] of at least two samples, got {list(vectors.shape)}")
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    if not (np.isfinite(length) & (length > 0)).all():
        raise ConfigError("the features of a sample must be finite and not all 0, to have a direction")
    directions = vectors / length
    distance = 1.0 - np.clip(directions @ directions.swapaxes(-1, -2), -1.0, 1.0)
    return np.asarray(np.where(np.eye(vectors.shape[-2], dtype=bool), np.inf, distance).min(axis=-1))


def diversity_advantages(rewards_PG: ArrayLike, distances_PG: ArrayLike) -> NDArray[np.float64]:
    """Multiply the advantages of good samples by how much they differ from the others of their group.

    It is ``(r - mean) * d / mean(d)``, and ``r - mean`` where that is negative. There is no standard deviation.

    Args:
        rewards_PG: rewards ``[P, G]``, NaN where unscored.
        distances_PG: d, from `diversity`, ``[P, G]``.

    Returns:
        float64 ``[P, G]``; 0 where unscored. Groups of identical samples (d = 0) keep their plain advantage.

    Raises:
        ConfigError: the shapes differ.
        RewardError: a reward is infinite.
    """
    advantages, distances = standardized(rewards_PG, std="none"), np.asarray(distances_PG, dtype=np.float64)
    if advantages.shape != distances.shape:
        raise ConfigError(f"rewards and distances must be [P, G], got {advantages.shape} and {distances.shape}")
    mean = distances.mean(axis=1, keepdims=True)
    factor = np.divide(distances, mean, out=np.ones_like(distances), where=mean > 0)
    return np.where(advantages < 0, advantages, advantages * factor)


def overrating(main: ArrayLike, auxiliary: Sequence[ArrayLike]) -> NDArray[np.float64]:
    """Compute how much better the main reward ranks a sample than the other rewards do on average.

    Ranks are the shares of the other samples that are worse, so a high one is good. (The authors' script ranks from the
    best, which selects samples that the main reward underrates.)

    Args:
        main: reward that is trained, ``[N]``: all samples of an iteration.
        auxiliary: other rewards, each ``[N]``.

    Returns:
        u in [-1, 1], float64 ``[N]``; positive where the main reward may be hacked.

    Raises:
        ConfigError: there is no other reward, fewer than two samples, a value is not finite, or the shapes differ.
    """
    rewards = [np.asarray(each, dtype=np.float64) for each in (main, *auxiliary)]
    shapes = [each.shape for each in rewards]
    if len(rewards) < 2 or len(set(shapes)) > 1 or rewards[0].ndim != 1 or len(rewards[0]) < 2:
        raise ConfigError(f"expected a main reward [N] and others of the same shape, N >= 2, got shapes {shapes}")
    if not all(np.isfinite(each).all() for each in rewards):
        raise ConfigError("rewards must be finite to be ranked: leave unscored samples out")
    first, *others = (_rank(each) for each in rewards)
    return first - np.mean(others, axis=0)


def doubtful(overrating_N: ArrayLike, share: float) -> NDArray[np.bool_]:
    """Select the samples that the KL penalty applies to: those above a percentile of the values of at least 0.

    Args:
        overrating_N: u, from `overrating`, ``[N]``.
        share: about this share of the samples with u >= 0 is selected, in (0, 1]; see `GateSchedule`.

    Returns:
        bool ``[N]``, ``u > percentile(100 - 100 * share)`` of the values u >= 0. The authors divide the penalty by the
        number of selected rows.

    Raises:
        ConfigError: the share is out of range.
    """
    if not 0 < share <= 1:
        raise ConfigError(f"share of doubtful samples must be in (0, 1], got {share}")
    values = np.asarray(overrating_N, dtype=np.float64)
    risen = values[values >= 0]
    return values > np.percentile(risen, 100.0 - 100.0 * share) if risen.size else np.zeros(values.shape, dtype=bool)


@dataclass(frozen=True)
class GateSchedule:
    """Share of doubtful samples, adapted to whether the main reward drifts away from the others.

    Immutable, so it can be saved and resumed as plain values.

    Attributes:
        share: current share, see `doubtful`.
        history: means of earlier iterations, oldest first.
        limits: smallest and largest share.
        length: number of means to compare with.
    """

    share: float = 0.1
    history: tuple[float, ...] = ()
    limits: tuple[float, float] = (0.02, 0.2)
    length: int = 20

    def __post_init__(self) -> None:
        low, high = self.limits
        if not (0 < low <= self.share <= high <= 1 and self.length >= 1):
            raise ConfigError(
                f"expected 0 < low <= share <= high <= 1 and length >= 1, got share={self.share}, limits={self.limits},"
                f" length={self.length}"
            )

    def after(self, overrating_N: ArrayLike) -> GateSchedule:
        """Return the schedule for an iteration whose samples are ranked; its share applies to these samples already.

        The share grows by a factor of 1.1 if the mean of the values of at least 0 exceeds the largest one in the
        history, and shrinks by 0.9 if it is below the smallest.

        Args:
            overrating_N: u, from `overrating`, ``[N]``.
        """
        values = np.asarray(overrating_N, dtype=np.float64)
        if not (values >= 0).any():
            return self
        mean, share = float(values[values >= 0].mean()), self.share
        if self.history and mean > max(self.history):
            share *= 1.1
        elif self.history and mean < min(self.history):
            share *= 0.9
        low, high = self.limits
        history = (*self.history, mean)[-self.length :]
        return GateSchedule(min(max(share, low), high), history, self.limits, self.length)


def _rank(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of the other values that are lower; an equal one counts as half."""
    ordered = np.sort(values)
    below, upto = (np.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return np.asarray((below + upto - 1) / (2.0 * (len(values) - 1)))
