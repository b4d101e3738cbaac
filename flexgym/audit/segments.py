"""Things in images, found by their distance to the background in CIELAB and named by hue and by the classifier.

Lengths are in pixels of an image of `SIDE` by `SIDE`; images of other sizes are resized to it.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from flexgym.audit.classifier import OTHER, SHAPES, log_probabilities

SIDE = 32
PATCH = 16
"""Side of the patches that the classifier of shapes receives."""
_REACH = 1.75
"""Half of a patch, in radii of a disk of the same area as the thing."""
_VISIBLE, _CLEAR = 27.0, 36.0
"""Distances to the background in CIELAB: of each pixel of a thing, and of its clearest pixel, at least."""
_SPECK = 9
"""Pixels below which a region is ignored."""
_CORE = 0.75
"""Share of the largest distance to the background from which a pixel shows the color of a thing."""
_PURE = 0.7
"""Share of the pixels of a thing of one color that have this color."""
_GRAY, _DARK = 26.0, 58.0
"""A region of less chroma is black if it has less than this lightness; otherwise its color has no name."""
_HUE_ENDS = (-53.0, -10.0, -2.0, 50.0, 66.0, 112.0, 122.0, 178.0, 262.0)
"""Ends in degrees of ranges of hue, from -90 to 270; each has one of `_NAMES`, the last range that after the last."""
_NAMES = ("blue", "purple", None, "red", None, "yellow", None, "green", None, "blue", "black", None)
_BLACK, _UNNAMED = 10, 11
_LIGHT = np.array([33.0, 33.0, 0.0, 39.0, 0.0, 68.0, 0.0, 47.0, 0.0, 33.0])
"""Least lightness for the name of each range of hue; a darker yellow is brown."""
_FINE = 4
"""Factor by which a thing is enlarged to measure its area and extent."""
_LEVELS = (0.6, 0.7, 0.8, 0.9)
"""Levels of coverage that may separate things that touch."""

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Region:
    """Pixels of one thing, before its shape is known.

    Attributes:
        color: name of the color of most of its pixels; None if they have none of the known ones.
        mask: its visible pixels, bool ``[SIDE, SIDE]``.
        cover: how much of each pixel it covers, float32 ``[SIDE, SIDE]`` in ``[0, 1]``.
    """

    color: str | None
    mask: Mask
    cover: Floats


@dataclass(frozen=True, eq=False)
class Segment:
    """A thing in an image.

    Attributes:
        color: name of its color; None if it has none of the known ones.
        x: center of its extent, from the left.
        y: center of its extent, from the top.
        box: left, top, right and bottom of its extent.
        area: number of pixels that it covers.
        cover: how much of each pixel it covers, float32 ``[SIDE, SIDE]`` in ``[0, 1]``.
        scores: log-probability of each shape, and of none of them, float32 ``[len(SHAPES) + 1]``.
    """

    color: str | None
    x: float
    y: float
    box: tuple[float, float, float, float]
    area: float
    cover: Floats
    scores: Floats

    @property
    def shape(self) -> str | None:
        """Return the most probable shape; None if it is none of the known ones."""
        return shape_of(self.scores)


def shape_of(scores: Floats) -> str | None:
    """Return the shape of the largest score; None if it is none of the known ones."""
    best = int(np.argmax(scores))
    return None if best == OTHER else SHAPES[best]


def find(frames: Sequence[Image]) -> list[list[Segment]]:
    """Return the things in each image.

    Args:
        frames: uint8 ``[H, W, 3]`` each.
    """
    canvases = [_Canvas.of(frame) for frame in frames]
    found = [(index, region) for index, canvas in enumerate(canvases) for region in canvas.regions()]
    things: list[list[Segment]] = [[] for _ in frames]
    for (index, region), scores in zip(found, _scores([region for _, region in found]), strict=True):
        several = _separated(canvases[index], region) if scores.argmax() == OTHER else []
        things[index] += several or [_measured(region, scores)]
    return things


def regions(frame: Image) -> list[Region]:
    """Return the regions of an image, uint8 ``[H, W, 3]``, that stand out from the background, without specks."""
    return _Canvas.of(frame).regions()


@dataclass(frozen=True, eq=False)
class _Canvas:
    """An image relative to its background.

    Attributes:
        pixels: colors without that of the background, float32 ``[SIDE, SIDE, 3]``.
        lab: colors in CIELAB, float32 ``[SIDE, SIDE, 3]``.
        contrast: distance to the background in CIELAB, float32 ``[SIDE, SIDE]``.
    """

    pixels: Floats
    lab: Floats
    contrast: Floats

    @classmethod
    def of(cls, frame: Image) -> _Canvas:
        """Return the canvas of an image, uint8 ``[H, W, 3]``; the background has its median color."""
        if frame.shape[:2] != (SIDE, SIDE):
            frame = np.asarray(cv2.resize(frame, (SIDE, SIDE), interpolation=cv2.INTER_AREA), np.uint8)
        pixels = frame.astype(np.float32) / 255.0
        lab = cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)
        both = np.concatenate([pixels, lab], axis=2)
        ground = np.median(both.reshape(-1, 6), axis=0)
        return cls(pixels - ground[:3], lab, np.linalg.norm(lab - ground[3:], axis=2))

    def regions(self) -> list[Region]:
        """Return the connected regions that stand out from the background, without specks."""
        seen = (self.contrast > _VISIBLE).astype(np.uint8)
        count, labels, stats, _ = cv2.connectedComponentsWithStats(seen, connectivity=8)
        masks = [labels == label for label in range(1, count) if stats[label, cv2.CC_STAT_AREA] >= _SPECK]
        return [self.region(mask) for mask in masks if self.contrast[mask].max() >= _CLEAR]

    def region(self, mask: Mask) -> Region:
        """Return the region of some pixels, with its color and with how much of each pixel it covers.

        The coverage is the share of the color in a mixture with the background; in a region of several colors, the
        share of the largest distance to the background.
        """
        core = self._core(mask)
        names = color_names(self.lab[core])
        color, frequency = Counter(names).most_common(1)[0]
        if frequency >= _PURE * len(names):
            full = self.pixels[core].mean(axis=0)
            share = self.pixels @ (full / (full @ full))
        else:
            share = self.contrast / self.contrast[core].mean()
        near = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        own = near & (mask | (self.contrast <= _VISIBLE))
        return Region(color, mask, np.where(own, np.clip(share, 0.0, 1.0), 0.0).astype(np.float32))

    def by_color(self, region: Region) -> list[Region]:
        """Return the parts of a region that differ in color."""
        colors = self.lab[self._core(region.mask)]
        names = color_names(colors)
        common = [name for name, number in Counter(names).items() if number >= _SPECK]
        if len(common) < 2:
            return []
        means = np.stack([colors[[name == own for name in names]].mean(axis=0) for own in common])
        nearest = np.linalg.norm(self.lab[:, :, None] - means, axis=3).argmin(axis=2)
        parts = [region.mask & (nearest == index) for index in range(len(common))]
        return [self.region(part) for part in parts if np.count_nonzero(part) >= _SPECK]

    def by_level(self, region: Region, level: float) -> list[Region]:
        """Return the parts of a region that are connected where it covers more of each pixel than ``level``."""
        count, labels = cv2.connectedComponents((region.cover >= level).astype(np.uint8), connectivity=4)
        seeds = [labels == label for label in range(1, count) if np.count_nonzero(labels == label) >= _SPECK / 2]
        if len(seeds) < 2:
            return []
        far = np.stack([cv2.distanceTransform(1 - seed.astype(np.uint8), cv2.DIST_L2, 5) for seed in seeds])
        nearest = far.argmin(axis=0)
        return [self.region(region.mask & (nearest == index)) for index in range(len(seeds))]

    def _core(self, mask: Mask) -> Mask:
        """Return the pixels of a region that show its color, not a mixture with the background."""
        return mask & (self.contrast >= _CORE * self.contrast[mask].max())


def color_names(lab: Floats) -> list[str | None]:
    """Return the names of colors in CIELAB, float32 ``[n, 3]``; None for those that are none of the known ones."""
    hues = (np.degrees(np.arctan2(lab[:, 2], lab[:, 1])) + 90.0) % 360.0 - 90.0
    named = np.searchsorted(_HUE_ENDS, hues)
    named = np.where(lab[:, 0] < _LIGHT[named], _UNNAMED, named)
    dull = np.hypot(lab[:, 1], lab[:, 2]) < _GRAY
    named = np.where(dull, np.where(lab[:, 0] < _DARK, _BLACK, _UNNAMED), named)
    return [_NAMES[index] for index in named.tolist()]


def features(cover: Floats) -> Floats:
    """Return what the classifier receives of a thing: its coverage at a fixed scale, and its radius.

    Args:
        cover: float32 ``[SIDE, SIDE]``.

    Returns:
        float32 ``[PATCH * PATCH + 1]``.
    """
    moments = cv2.moments(cover)
    mass = max(moments["m00"], 1.0)
    radius = math.sqrt(mass / math.pi)
    step = 2.0 * _REACH * radius / PATCH
    x, y = (moments[name] / mass - step * (PATCH - 1) / 2.0 for name in ("m10", "m01"))
    place = np.array([[step, 0.0, x], [0.0, step, y]])
    patch = cv2.warpAffine(cover, place, (PATCH, PATCH), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    return np.append(patch.ravel(), np.float32(math.log(radius / 5.0)))


def _scores(found: Sequence[Region]) -> Floats:
    if not found:
        return np.zeros((0, len(SHAPES) + 1), np.float32)
    return log_probabilities(np.stack([features(region.cover) for region in found]))


def _measured(region: Region, scores: Floats) -> Segment:
    """Return a thing with its area and extent, measured where it covers half of a finer pixel."""
    fine = cv2.resize(region.cover, None, fx=_FINE, fy=_FINE, interpolation=cv2.INTER_CUBIC) >= 0.5
    left, top, width, height = (side / _FINE for side in cv2.boundingRect(fine.astype(np.uint8)))
    box = (left, top, left + width, top + height)
    area = float(np.count_nonzero(fine)) / _FINE**2
    return Segment(region.color, left + width / 2, top + height / 2, box, area, region.cover, scores)


def _separated(canvas: _Canvas, region: Region) -> list[Segment]:
    """Return the things of a region that is none of the shapes: several that touch; nothing if it is not several."""
    ways = itertools.chain([canvas.by_color(region)], (canvas.by_level(region, level) for level in _LEVELS))
    for parts in ways:
        scores = _scores(parts)
        if len(parts) > 1 and (scores.argmax(axis=1) != OTHER).all():
            return [_measured(part, own) for part, own in zip(parts, scores, strict=True)]
    return []
