"""Diversity of the samples of one prompt, which falls when a policy makes the same image for everything."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def group_diversity(samples: NDArray[np.uint8]) -> float:
    """Compute the root mean square distance between two samples of a group, over all pairs and pixel values.

    Pixel values are scaled to 0 to 1, so a group of equal samples has 0, and one of a black and a white image has 1.
    It needs no model and does not depend on the order of the samples; as a distance of pixels, it measures color and
    position more than meaning.

    Args:
        samples: uint8 ``[G, H, W, 3]`` or ``[G, F, H, W, 3]``.

    Returns:
        The distance; NaN for fewer than two samples.
    """
    count = len(samples)
    if count < 2:
        return float("nan")
    # In whole numbers, and sample by sample, since a group of videos may be large:
    # the squared differences of all pairs add up to count * (sum of squares) - (sum) ** 2.
    sums = np.zeros(samples.shape[1:], np.int64)
    squares = 0
    for sample in samples:
        values = sample.astype(np.int64)
        sums += values
        squares += int((values * values).sum())
    differences = count * squares - int((sums * sums).sum())
    pairs = count * (count - 1) // 2
    return float(np.sqrt(differences / (pairs * sums.size))) / 255.0


def mean_diversity(groups: Sequence[NDArray[np.uint8]]) -> float:
    """Average `group_diversity` over groups; NaN when no group has two samples."""
    values = [group_diversity(samples) for samples in groups if len(samples) > 1]
    return float(np.mean(values)) if values else float("nan")
