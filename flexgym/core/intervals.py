"""Confidence intervals of shares and of means over few runs."""

from __future__ import annotations

import math

CONFIDENCE = 0.95
"""Confidence level of all intervals."""


def wilson(value: float, count: int) -> tuple[float, float]:
    """Compute the score interval of a share at level `CONFIDENCE` (E. B. Wilson, 1927).

    Args:
        value: the share, 0 to 1.
        count: number of observations, at least 1.
    """
    from scipy import stats  # takes half a second to load

    square = float(stats.norm.ppf(0.5 + CONFIDENCE / 2)) ** 2
    center = (value + square / (2 * count)) / (1 + square / count)
    half = math.sqrt(square * (value * (1 - value) / count + square / (4 * count**2))) / (1 + square / count)
    return max(center - half, 0.0), min(center + half, 1.0)


def student_quantile(freedom: int) -> float:
    """Return the factor of the standard error in the interval of a mean at level `CONFIDENCE` (Student's t).

    Args:
        freedom: degrees of freedom, one less than the number of observations.
    """
    from scipy import stats

    return float(stats.t.ppf(0.5 + CONFIDENCE / 2, freedom))
