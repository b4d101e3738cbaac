"""Read objects from the pixels of images: their shape, color, position, size and angle.

Pixels are matched to the colors and connected to regions, and each region is compared with the ideal outlines of all
shapes. Many images are processed together, since most of the time is spent in small array operations.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexgym.shapes.scenes import BACKGROUND, COLORS, OUTLINES, SHAPES, coverage

OTHER = "other"
"""Color of an object that has the hue of one of the colors, but is much darker."""
MIN_AREA = 14.0
"""Minimum area of an object in pixels; smaller specks are ignored."""

_NAMES = tuple(COLORS)
_SEEN_COLORS = (*_NAMES, OTHER)
_OPPONENT = np.array([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]], np.float32)
"""Matrix from RGB to luma and two chroma channels."""
_TO_HUE = np.diag([0.2, 1.0, 1.0]).astype(np.float32) @ _OPPONENT
"""Matrix to the space of colors, where chroma outweighs luma: compression blurs chroma, and an edge is not black."""
_TO_INK = np.diag([3.0, 1.0, 1.0]).astype(np.float32) @ _OPPONENT
"""Matrix to the space of coverage, where luma outweighs chroma: compression keeps it sharp."""
_RAYS = np.array([np.subtract(COLORS[name], BACKGROUND) for name in _NAMES], np.float32)


def _rays(space: NDArray[np.float32], power: float) -> NDArray[np.float32]:
    """Return a matrix that projects RGB differences on the ray of each color, divided by its length to a power."""
    rays = _RAYS @ space.T
    return (rays / np.linalg.norm(rays, axis=1, keepdims=True) ** power) @ space


_LIKENESS, _AMOUNT = _rays(_TO_HUE, 1.0), _rays(_TO_INK, 2.0)
_LEAST_AMOUNT, _BRIGHTEST = 0.25, BACKGROUND - 30
"""Pixels are background if they have less than this share of a color, or no channel darker than this."""
_MOST_AMOUNT = 1.8
"""Share of a color above which a pixel is much darker than it, such as brown for yellow."""
_AREA = 3.15
"""Area of every shape of radius 1, accurate to 1%."""
_REACHES = np.array([8, 12, 16])
"""Half widths of the windows around objects, in pixels; parts of an object beyond the largest are ignored."""
_CHUNK = 64
"""Number of frames processed at a time, small enough to stay in the CPU cache."""
_WITHIN_PLANE = np.zeros((3, 3, 3), bool)
_WITHIN_PLANE[1] = [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
_PHASE = {"square": np.pi, "triangle": np.pi / 2, "cross": 0.0, "bar": 0.0}
"""Direction in radians of the moment of each upright shape that a rotation changes."""


@dataclass(frozen=True)
class Seen:
    """An object found in an image; lengths in pixels, angle in degrees modulo the symmetry of its shape.

    Attributes:
        shape: the best fitting of `SHAPES`.
        color: the nearest of `COLORS`, or `OTHER`.
        x: x coordinate of the center, from the left.
        y: y coordinate of the center, from the top.
        radius: radius of the circle of equal area.
        fit: intersection over union with the ideal outline of ``shape``, 0 to 1.
        angle: rotation relative to the upright shape.
    """

    shape: str
    color: str
    x: float
    y: float
    radius: float
    fit: float
    angle: float


Reading = tuple[tuple[Seen, ...], ...]
"""Objects in each frame of a sample; an image has one frame."""


@dataclass(frozen=True)
class _Pixels:
    """All R pixels that belong to objects, each with the index of its object, below M.

    Attributes:
        thing: index of the object, int ``[R]``.
        row: int ``[R]``.
        column: int ``[R]``.
        weight: coverage, float32 ``[R]``.
    """

    thing: NDArray[np.intp]
    row: NDArray[np.intp]
    column: NDArray[np.intp]
    weight: NDArray[np.float32]


@dataclass(frozen=True)
class _Things:
    """All M objects in a batch of frames.

    Attributes:
        frame: index of the frame, int ``[M]``.
        color: index of the color, int ``[M]``; one past the last for `OTHER`.
        x: x coordinate of the center, from the left, float32 ``[M]``.
        y: y coordinate of the center, from the top, float32 ``[M]``.
        radius: radius of the circle of equal area, float32 ``[M]``.
    """

    frame: NDArray[np.intp]
    color: NDArray[np.intp]
    x: NDArray[np.float32]
    y: NDArray[np.float32]
    radius: NDArray[np.float32]


@dataclass(frozen=True)
class _Windows:
    """Windows of K pixels around objects.

    Attributes:
        weights: coverage of the pixels around each object, float32 ``[M, K, K]``.
        dx: x distances of window pixels from the center, float32 ``[M, 1, K]``.
        dy: y distances of window pixels from the center, float32 ``[M, K, 1]``.
        radius: radius of the circle of equal area, float32 ``[M, 1, 1]``.
    """

    weights: NDArray[np.float32]
    dx: NDArray[np.float32]
    dy: NDArray[np.float32]
    radius: NDArray[np.float32]

    @cached_property
    def mass(self) -> NDArray[np.float32]:
        """Return the overlap of each object with itself, ``[M]``."""
        return _overlap(self.weights, self.weights)


def _unmix(frames: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Return the index of the nearest color and the coverage by it, both ``[N, H, W]``.

    Pixels are projected onto the rays from the background to each color, so an edge pixel counts by its share of the
    color. Pixels that are darker than their color have a coverage above 1.
    """
    darkest = np.minimum(np.minimum(frames[..., 0], frames[..., 1]), frames[..., 2])
    inked = np.flatnonzero(darkest < _BRIGHTEST)
    pixels = (frames.reshape(-1, 3)[inked].astype(np.float32) - np.float32(BACKGROUND)).T
    likeness, amount = _LIKENESS @ pixels, _AMOUNT @ pixels
    best, share, color = likeness[0], amount[0], np.zeros(len(inked), np.uint8)
    for index in range(1, len(_NAMES)):
        better = likeness[index] > best
        np.copyto(best, likeness[index], where=better)
        np.copyto(share, amount[index], where=better)
        color[better] = index
    share *= share > _LEAST_AMOUNT
    nearest, covered = np.zeros(frames.shape[:3], np.uint8), np.zeros(frames.shape[:3], np.float32)
    nearest.reshape(-1)[inked] = color
    covered.reshape(-1)[inked] = share
    return nearest, covered


def _label(nearest: NDArray[np.uint8], covered: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Label connected regions of one color, on one plane per frame and color that occurs in it.

    Each region is extended by one pixel into its own soft edge.

    Returns:
        ``frame * num_colors + color`` of each plane, ``[L]``, and region labels, ``[L, H, W]``, where 0 is background.
    """
    from scipy import ndimage  # takes half a second to load

    count, height, width = nearest.shape
    frame, row, column = np.unravel_index(np.flatnonzero(covered > 0.5), nearest.shape)
    code = frame * len(_NAMES) + nearest[frame, row, column]
    held = np.bincount(code, minlength=count * len(_NAMES)) > 0
    planes = np.flatnonzero(held)
    # Add a margin of one pixel, so that the neighbors of every pixel are plain slices.
    inside = np.zeros((len(planes), height + 2, width + 2), bool)
    inside[(np.cumsum(held) - 1)[code], row + 1, column + 1] = True
    padded = np.empty(inside.shape, np.int32)
    ndimage.label(inside, structure=_WITHIN_PLANE, output=padded)
    grown = np.maximum(padded[:, 1:-1, :-2], padded[:, 1:-1, 2:])
    np.maximum(grown, padded[:, :-2, 1:-1], out=grown)
    np.maximum(grown, padded[:, 2:, 1:-1], out=grown)
    labels = padded[:, 1:-1, 1:-1]
    np.copyto(grown, labels, where=labels > 0)
    owner, color = np.divmod(planes, len(_NAMES))
    grown *= (nearest[owner] == color[:, None, None]) & (covered[owner] > 0.0)
    return planes, grown


def _find(frames: NDArray[np.uint8]) -> tuple[_Things, _Pixels]:
    """Find the objects in images, uint8 ``[N, H, W, 3]``, and their pixels."""
    nearest, covered = _unmix(frames)
    planes, labels = _label(nearest, covered)
    flat = np.flatnonzero(labels)
    ids = labels.reshape(-1)[flat]
    plane, row, column = np.unravel_index(flat, labels.shape)
    share = covered[planes[plane] // len(_NAMES), row, column]
    weight = np.minimum(share, 1.0)
    area = np.bincount(ids, weight)
    kept = np.flatnonzero(area >= MIN_AREA)
    x = (np.bincount(ids, weight * (column + 0.5))[kept] / area[kept]).astype(np.float32)
    y = (np.bincount(ids, weight * (row + 0.5))[kept] / area[kept]).astype(np.float32)
    owner = np.zeros(len(area), np.intp)
    owner[ids] = planes[plane]
    frame, color = np.divmod(owner[kept], len(_NAMES))
    color[2 * np.bincount(ids, share > _MOST_AMOUNT)[kept] > np.bincount(ids)[kept]] = len(_NAMES)
    number = np.full(len(area), -1)
    number[kept] = np.arange(len(kept))
    mine = np.flatnonzero(area[ids] >= MIN_AREA)
    pixels = _Pixels(number[ids[mine]], row[mine], column[mine], weight[mine])
    return _Things(frame, color, x, y, np.sqrt(area[kept] / _AREA).astype(np.float32)), pixels


def _windows(things: _Things, pixels: _Pixels) -> Iterator[tuple[NDArray[np.intp], _Windows]]:
    """Yield objects in batches of similar size, with windows that contain them and their ideal outlines."""
    left, top = np.floor(things.x).astype(np.intp), np.floor(things.y).astype(np.intp)
    column, row = pixels.column - left[pixels.thing], pixels.row - top[pixels.thing]
    # The tip of a triangle is 1.56 radii from its center; add room for its soft edge and the rounding of the center.
    lot = np.searchsorted(_REACHES[:-1], 1.56 * things.radius + 1.5)
    reach = _REACHES[lot][pixels.thing]
    lot[pixels.thing[np.maximum(np.maximum(column, row) + 1, -np.minimum(column, row)) > reach]] = len(_REACHES) - 1
    for index, half in enumerate(_REACHES):
        rows = np.flatnonzero(lot == index)
        if not len(rows):
            continue
        place = np.full(len(lot), -1)
        place[rows] = np.arange(len(rows))
        near = (lot[pixels.thing] == index) & (np.minimum(column, row) >= -half) & (np.maximum(column, row) < half)
        weights = np.zeros((len(rows), 2 * half, 2 * half), np.float32)
        weights[place[pixels.thing[near]], row[near] + half, column[near] + half] = pixels.weight[near]
        steps = np.arange(-half, half) + 0.5
        dx = (left[rows, None] + steps - things.x[rows, None]).astype(np.float32)
        dy = (top[rows, None] + steps - things.y[rows, None]).astype(np.float32)
        yield rows, _Windows(weights, dx[:, None, :], dy[:, :, None], things.radius[rows, None, None])


def _moment(windows: _Windows, fold: int) -> NDArray[np.float32]:
    """Return the direction in radians, ``[M]``, of the moment that rotates ``fold`` times as fast as the object."""
    place = (windows.dx + 1j * windows.dy).astype(np.complex64)
    power = place * place
    if fold > 2:
        power *= place if fold == 3 else power
    power *= windows.weights
    return np.angle(power.reshape(len(power), -1).sum(1)).astype(np.float32)


def _overlap(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the sums of products of two stacks of masks, ``[M]``; less sensitive to blur than sums of minima."""
    return np.einsum("mij,mij->m", first, second)


def _fits(windows: _Windows, shape: str, angle: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Compute the intersection over union of each object with the ideal outline of ``shape``.

    Args:
        windows: windows around M objects.
        shape: one of `SHAPES`.
        angle: rotation in degrees, ``[M]``; None is upright.
    """
    dx, dy = windows.dx, windows.dy
    if angle is not None:
        turn = np.deg2rad(angle).reshape(-1, 1, 1)
        c: NDArray[np.float32] = np.cos(turn)
        s: NDArray[np.float32] = np.sin(turn)
        dx, dy = c * dx + s * dy, c * dy - s * dx
    ideal = coverage(shape, dx, dy, radius=windows.radius)
    both = _overlap(windows.weights, ideal)
    return both / (windows.mass + _overlap(ideal, ideal) - both)


def _recognize(windows: _Windows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the better fit to each of `SHAPES`, upright or at its moment's angle, and that angle in degrees."""
    folds = {shape: np.float32(OUTLINES[shape].symmetry) for shape in _PHASE}
    moments = {fold: _moment(windows, int(fold)) for fold in set(folds.values())}
    fits, angles = [], []
    for shape in SHAPES:
        fit, angle = _fits(windows, shape, None), np.zeros(len(windows.weights), np.float32)
        if shape in _PHASE:
            angle = np.rad2deg((moments[folds[shape]] - np.float32(_PHASE[shape])) / folds[shape])
            fit = np.maximum(fit, _fits(windows, shape, angle))
        fits.append(fit)
        angles.append(angle)
    return np.stack(fits), np.stack(angles)


def read_frames(frames: NDArray[np.uint8]) -> Reading:
    """Find the objects in each of N images, uint8 ``[N, H, W, 3]``, sorted from left to right."""
    found: list[list[Seen]] = []
    for start in range(0, len(frames), _CHUNK):
        found += _read_chunk(frames[start : start + _CHUNK])
    return tuple(tuple(frame) for frame in found)


def _read_chunk(frames: NDArray[np.uint8]) -> list[list[Seen]]:
    things, pixels = _find(frames)
    fits = np.empty((len(SHAPES), len(things.x)), np.float32)
    angles = np.empty_like(fits)
    for rows, windows in _windows(things, pixels):
        fits[:, rows], angles[:, rows] = _recognize(windows)
    order = np.argsort(things.x, kind="stable")
    best = fits.argmax(0)
    fit, angle = (table[best, np.arange(len(best))] for table in (fits, angles))
    columns = (things.frame, best, things.color, things.x, things.y, things.radius, fit, angle)
    found: list[list[Seen]] = [[] for _ in frames]
    for frame, shape, color, *measures in zip(*(column[order].tolist() for column in columns), strict=True):
        found[frame].append(Seen(SHAPES[shape], _SEEN_COLORS[color], *measures))
    return found


def read_sample(sample: NDArray[np.uint8]) -> Reading:
    """Find the objects in a sample.

    Args:
        sample: uint8 ``[H, W, 3]`` or ``[F, H, W, 3]``.

    Raises:
        ValueError: if the sample has another shape or data type.
    """
    if not _is_sample(sample.shape, sample.dtype):
        raise ValueError(f"expected uint8 [H, W, 3] or [F, H, W, 3], got {sample.dtype} {list(sample.shape)}")
    return read_frames(sample[None] if sample.ndim == 3 else sample)


def read_samples(samples: NDArray[np.uint8]) -> list[Reading]:
    """Find the objects in all samples of a group, in one batch.

    Args:
        samples: uint8 ``[G, H, W, 3]`` or ``[G, F, H, W, 3]``.

    Raises:
        ValueError: if the samples have another shape or data type.
    """
    if not _is_sample(samples.shape[1:], samples.dtype):
        raise ValueError(f"expected uint8 [G, H, W, 3] or [G, F, H, W, 3], got {samples.dtype} {list(samples.shape)}")
    count, frames = len(samples), samples.shape[1] if samples.ndim == 5 else 1
    seen = read_frames(samples.reshape(count * frames, *samples.shape[-3:]))
    return [seen[start : start + frames] for start in range(0, count * frames, frames)]


def read_groups(groups: Sequence[NDArray[np.uint8]]) -> list[list[Reading] | None]:
    """Find the objects in the samples of many groups; groups with samples of the same size share a batch.

    Args:
        groups: samples as for `read_samples`; sizes may differ.

    Returns:
        Readings of each group's samples, or None for a group that `read_samples` would reject.
    """
    readings: list[list[Reading] | None] = [None] * len(groups)
    by_size: dict[tuple[int, ...], list[int]] = {}
    for index, samples in enumerate(groups):
        if _is_sample(samples.shape[1:], samples.dtype):
            by_size.setdefault(samples.shape[1:], []).append(index)
    for members in by_size.values():
        batch = iter(read_samples(np.concatenate([groups[index] for index in members])))
        for index in members:
            readings[index] = list(itertools.islice(batch, len(groups[index])))
    return readings


def _is_sample(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    return len(shape) in (3, 4) and shape[-1] == 3 and 0 not in shape and dtype == np.uint8
