"""Aggregates over few runs with intervals, as defined by rliable (arXiv 2108.13264), with NumPy and SciPy alone.

Scores are given by stratum: an array of the scores of the runs for each task.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Scores = Mapping[str, NDArray[np.float64]]
"""Scores of the runs of one algorithm by task."""
Draws = Mapping[str, NDArray[np.float64]]
"""Resampled scores by task, ``[B, N]`` with B resamples of N runs."""


@dataclass(frozen=True)
class Interval:
    """A figure with the bounds of its interval.

    Attributes:
        value: the figure of the runs themselves.
        low: lower bound.
        high: upper bound.
    """

    value: float
    low: float
    high: float


def interquartile_mean(scores: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    """Compute the mean of the middle half: a quarter of the scores, rounded down, is cut off at each end.

    Args:
        scores: any shape.
        axis: along which the scores of an aggregate lie.
    """
    return np.asarray(stats.trim_mean(scores, 0.25, axis=axis))


def probability_of_improvement(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute the probability that a run of one algorithm scores higher than one of another; ties count half.

    This is Mann and Whitney's U over the number of pairs.

    Args:
        first: scores ``[..., N]``.
        second: scores ``[..., K]`` of the other algorithm.

    Returns:
        ``[...]``, from 0 to 1.
    """
    differences = first[..., :, None] - second[..., None, :]
    return np.asarray((0.5 + 0.5 * np.sign(differences)).mean(axis=(-2, -1)))


def resample(scores: Scores, rng: np.random.Generator, *, resamples: int) -> dict[str, NDArray[np.float64]]:
    """Draw runs with replacement within each task, so that every resample has as many runs of a task as there are."""
    return {
        task: values[rng.integers(0, len(values), (resamples, len(values)))] if len(values) else values[None]
        for task, values in scores.items()
    }


def interquartile_interval(
    scores: Scores, *, resamples: int = 2000, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """Compute the interquartile mean over all runs of all tasks, with the stratified percentile bootstrap.

    Args:
        scores: by task, at least one run in all.
        resamples: of the bootstrap.
        seed: of its draws.
        confidence: share of the resampled figures inside the interval.
    """

    def aggregate(draws: Draws) -> NDArray[np.float64]:
        return interquartile_mean(np.concatenate(list(draws.values()), axis=-1))

    draws = resample(scores, np.random.default_rng(seed), resamples=resamples)
    return _interval(aggregate, [scores], [draws], confidence=confidence)


def improvement_interval(
    first: Scores, second: Scores, *, resamples: int = 2000, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """Compute the mean over tasks of the probability of improvement, with the stratified percentile bootstrap.

    Args:
        first: scores of one algorithm by task.
        second: scores of the other by the same tasks; the runs of the two are drawn independently.
        resamples: of the bootstrap.
        seed: of its draws.
        confidence: share of the resampled figures inside the interval.
    """

    def aggregate(one: Draws, other: Draws) -> NDArray[np.float64]:
        return np.mean([probability_of_improvement(one[task], other[task]) for task in one], axis=0)

    rng = np.random.default_rng(seed)
    draws = [resample(scores, rng, resamples=resamples) for scores in (first, second)]
    return _interval(aggregate, [first, second], draws, confidence=confidence)


def mean_interval(
    values: NDArray[np.float64], *, resamples: int = 2000, seed: int = 0, confidence: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Compute the mean over runs at every point of a curve, with the bounds of the percentile bootstrap.

    Args:
        values: ``[N, T]``, the curves of N runs.
        resamples: of the bootstrap.
        seed: of its draws.
        confidence: share of the resampled means inside the interval.

    Returns:
        Mean, lower and upper bound, each ``[T]``.
    """
    drawn = np.random.default_rng(seed).integers(0, len(values), (resamples, len(values)))
    means = values[drawn].mean(axis=1)
    low, high = np.quantile(means, _tails(confidence), axis=0)
    return values.mean(axis=0), low, high


def _interval(
    aggregate: Callable[..., NDArray[np.float64]],
    scores: Sequence[Scores],
    draws: Sequence[Draws],
    *,
    confidence: float,
) -> Interval:
    value = float(aggregate(*scores))
    low, high = np.quantile(aggregate(*draws), _tails(confidence))
    return Interval(value, float(low), float(high))


def _tails(confidence: float) -> tuple[float, float]:
    return 0.5 - confidence / 2.0, 0.5 + confidence / 2.0
