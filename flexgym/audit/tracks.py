"""Things followed through the frames of a video, and how they move. An image is a video of one frame."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from flexgym.audit.segments import SIDE, Image, Segment, find, shape_of

_FAR = 9.0
"""Distance from which two segments of consecutive frames are different things."""
_RECOLORED = 5.0
"""Distance that a change of color counts for."""
_GAP = 2
"""Frames in which a thing may be lost from sight."""
_FLICKER = 2
"""Frames for which a thing must be seen in a video to count."""
_STEADY = 0.7
"""Share of the frames in which a thing must look like itself."""
_TRAVEL, _STILL = 5.8, 3.2
"""Distance from which a thing moves, and below which it is still."""
_SLOW, _QUICK = 10.8, 16.9
"""Distance below which a thing moves slowly, and above which it moves quickly."""
_RESIZE = 1.6
"""Ratio of areas from which a thing grows or shrinks."""
_SYMMETRIES = {"square": 4, "triangle": 3, "cross": 4, "bar": 2}
"""Number of positions in which a turned shape looks the same."""
_TURN = 0.3
"""Turn from which a thing rotates, as a share of the turn after which it looks the same."""
_SMALL, _LARGE = 63.0, 148.0
"""Area below which the only thing is small, and above which it is large."""

Curve = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Track:
    """One thing in the frames of a video.

    Attributes:
        frames: indices of the frames in which it is seen.
        segments: how it is seen in each of these frames.
    """

    frames: tuple[int, ...]
    segments: tuple[Segment, ...]

    @cached_property
    def color(self) -> str | None:
        """Return its most frequent color; None if that has no name."""
        return Counter(segment.color for segment in self.segments).most_common(1)[0][0]

    @cached_property
    def shape(self) -> str | None:
        """Return the shape that is most probable in all frames together; None if it has none of the known ones."""
        return shape_of(np.sum([segment.scores for segment in self.segments], axis=0))

    @property
    def kind(self) -> str | None:
        """Return color and shape, such as ``"red circle"``; None if one of them is unknown."""
        return f"{self.color} {self.shape}" if self.color and self.shape else None

    @property
    def steady(self) -> bool:
        """Return whether it keeps its color and shape in most frames."""
        same = [(segment.color, segment.shape) == (self.color, self.shape) for segment in self.segments]
        return sum(same) >= _STEADY * len(same)

    @property
    def size(self) -> str | None:
        """Return ``"small"`` or ``"large"``; None for a middle size."""
        area = float(np.median(self._areas))
        return "small" if area < _SMALL else "large" if area > _LARGE else None

    @cached_property
    def places(self) -> Curve:
        """Return its center in each frame, float64 ``[n, 2]``, also where the edge of the image cuts it."""
        boxes = np.array([segment.box for segment in self.segments])
        return np.stack([_centers(boxes[:, axis], boxes[:, axis + 2]) for axis in (0, 1)], axis=1)

    @property
    def travel(self) -> tuple[float, float]:
        """Return how far it moves to the right and down."""
        x, y = self.places[-1] - self.places[0]
        return float(x), float(y)

    @property
    def direction(self) -> str | None:
        """Return the direction in which it moves; None if it does not, or obliquely."""
        x, y = self.travel
        if max(abs(x), abs(y)) < _TRAVEL or min(abs(x), abs(y)) > 0.5 * max(abs(x), abs(y)):
            return None
        if abs(x) > abs(y):
            return "right" if x > 0 else "left"
        return "down" if y > 0 else "up"

    @property
    def speed(self) -> str | None:
        """Return ``"slowly"`` or ``"quickly"``; None for a speed between them."""
        distance = math.hypot(*self.travel)
        return "slowly" if distance < _SLOW else "quickly" if distance > _QUICK else None

    @property
    def still(self) -> bool:
        """Return whether it stays within a small distance."""
        return float(np.ptp(self.places, axis=0).max()) < _STILL

    @property
    def change(self) -> str | None:
        """Return ``"bouncing"``, ``"growing"``, ``"shrinking"`` or ``"rotating"``; None if it does nothing of these."""
        heights = self.places[:, 1]
        if self._areas.size < 3:
            return None
        if heights.max() - max(heights[0], heights[-1]) >= _TRAVEL:  # it falls and comes up again
            return "bouncing"
        ratio = self._areas[-2:].mean() / self._areas[:2].mean()
        if max(ratio, 1.0 / ratio) >= _RESIZE:
            return "growing" if ratio > 1.0 else "shrinking"
        return "rotating" if self._turned() >= _TURN else None

    @property
    def _areas(self) -> Curve:
        return np.array([segment.area for segment in self.segments])

    def _turned(self) -> float:
        """Return by how much it turns, as a share of the turn after which it looks the same."""
        order = _SYMMETRIES.get(self.shape or "")
        if order is None:
            return 0.0
        phases = np.angle([_moment(segment, order) for segment in self.segments])
        steps = (np.diff(phases) + math.pi) % (2.0 * math.pi) - math.pi
        return abs(float(steps.sum())) / (2.0 * math.pi)


def _centers(low: Curve, high: Curve) -> Curve:
    """Return the middle of an extent in each frame; where the edge of the image cuts it, from the end that is seen."""
    cut_low, cut_high = low < 0.5, high > SIDE - 0.5
    whole = ~(cut_low | cut_high)
    if not whole.any() or whole.all():
        return (low + high) / 2.0
    half = np.maximum(np.median((high - low)[whole]), high - low) / 2.0
    return np.where(cut_low, high - half, np.where(cut_high, low + half, (low + high) / 2.0))


def _moment(segment: Segment, order: int) -> complex:
    """Return the complex moment whose angle is ``order`` times that of a shape with this symmetry."""
    rows, columns = np.nonzero(segment.cover)
    weights = segment.cover[rows, columns]
    places = columns + 1j * rows
    places = places - np.average(places, weights=weights)
    return complex((weights * places**order).sum())


def follow(frames: Sequence[Image]) -> list[Track]:
    """Return the things of a video, without those that are seen in a single frame of several.

    Args:
        frames: uint8 ``[H, W, 3]`` each.
    """
    chains: list[list[tuple[int, Segment]]] = []
    for index, segments in enumerate(find(frames)):
        chains += _linked(chains, index, segments)
    shortest = min(_FLICKER, len(frames))
    return [
        Track(tuple(index for index, _ in chain), tuple(segment for _, segment in chain))
        for chain in chains
        if len(chain) >= shortest
    ]


def _linked(
    chains: Sequence[list[tuple[int, Segment]]], index: int, segments: Sequence[Segment]
) -> list[list[tuple[int, Segment]]]:
    """Append the segments of a frame to the nearest chains, and return new chains of those that are near none."""
    current = [chain for chain in chains if index - chain[-1][0] <= _GAP + 1]
    costs = sorted(
        (_cost(chain[-1][1], segment), number, place)
        for number, chain in enumerate(current)
        for place, segment in enumerate(segments)
    )
    used: set[int] = set()
    taken: set[int] = set()
    for cost, number, place in costs:
        if cost < _FAR and number not in used and place not in taken:
            current[number].append((index, segments[place]))
            used.add(number)
            taken.add(place)
    return [[(index, segment)] for place, segment in enumerate(segments) if place not in taken]


def _cost(before: Segment, after: Segment) -> float:
    distance = math.hypot(after.x - before.x, after.y - before.y)
    return distance + (_RECOLORED if before.color != after.color else 0.0)
