"""Axes that a judge scores on, and how their labels are found in a reply."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

# Every repetition is bounded, so parsing a reply that fell into a loop stays fast.
_DECORATION = r"[\s*_`\"']{0,9}"


@dataclass(frozen=True)
class Axis:
    """One number in a reply.

    Attributes:
        name: name of the axis in scores and weights.
        label: words before the number in the reply.
        lowest: lower end of the scale.
        highest: upper end of the scale.
    """

    name: str
    label: str
    lowest: float = 1.0
    highest: float = 5.0


@cache
def axis_label(axis: Axis) -> re.Pattern[str]:
    """Return a pattern for the label of an axis up to its number; its group captures the scale in brackets."""
    words = r"[\s_*-]{1,5}".join(map(re.escape, axis.label.split()))
    return re.compile(
        rf"(?<![^\W_]){words}{_DECORATION}(?:\(([^()\n]{{0,40}})\))?{_DECORATION}[:=\uff1a]{_DECORATION}", re.IGNORECASE
    )
