"""What the pixels of a sample show, and which constraints of a caption they meet.

The verifier sees nothing but pixels and the caption. It is what every training claim is judged by, and the policy never
sees it unless it is chosen as the reward.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from flexgym.shapes.captions import Noun, Spec, parse_caption
from flexgym.shapes.scenes import BACKGROUND, COLOURS, SHAPES, SYMMETRY, coverage

MIN_AREA = 14.0
"""Smaller specks are dirt, not things, in pixels."""
MIN_FIT = 0.66
"""Least overlap (intersection over union) with the ideal outline for a thing to count as that shape."""
SIZE_BORDER = 6.0
"""Radius in pixels between small and large."""
MOST_FRAMES = 0.7
"""Share of a clip's frames in which a thing must look right."""
_MOST_THINGS = 6
"""Things of a frame, from the left, that are tried as those of a caption: beyond that the count is wrong anyway."""

_NAMES = tuple(COLOURS)
_RAYS = np.array([np.subtract(COLOURS[name], BACKGROUND) for name in _NAMES], np.float32)
_SQUARES = np.square(_RAYS).sum(1)
_UNIT_RAYS = _RAYS / _SQUARES[:, None]
_AREA = 3.15
"""Area of every shape of radius 1, to within one part in a hundred."""
_REACHES = np.array([8, 12, 16])
"""Half the width of the windows around things; what lies farther from its thing's centre than the last is left out."""
_CHUNK = 64
"""Frames read at a time: few enough to stay in a processor's cache."""
_WITHIN_PLANE = np.zeros((3, 3, 3), bool)
_WITHIN_PLANE[1] = ndimage.generate_binary_structure(2, 1)
_PHASE = {"square": np.pi, "triangle": np.pi / 2, "cross": 0.0}


@dataclass(frozen=True)
class Seen:
    """A thing found in one picture; lengths in pixels, angle in degrees within its shape's symmetry.

    Attributes:
        shape: the best fitting of `SHAPES`.
        colour: the nearest of `COLOURS`.
        x: centre from the left.
        y: centre from the top.
        radius: of the circle of equal area.
        fit: overlap with the ideal outline of ``shape``, 0 to 1.
        angle: turn against the upright shape.
    """

    shape: str
    colour: str
    x: float
    y: float
    radius: float
    fit: float
    angle: float


Reading = tuple[tuple[Seen, ...], ...]
"""What each frame of a sample shows; a picture has one frame."""


@dataclass(frozen=True)
class Verdict:
    """Which constraints of a caption a sample meets.

    Attributes:
        constraints: one entry for each thing that the caption demands, such as ``"1 colour red"``.
    """

    constraints: Mapping[str, bool]

    @property
    def satisfied(self) -> bool:
        """Whether every constraint is met."""
        return all(self.constraints.values())

    @property
    def score(self) -> float:
        """Share of the constraints that are met, 0 to 1."""
        return sum(self.constraints.values()) / len(self.constraints)


@dataclass(frozen=True)
class _Pixels:
    """The pixels that belong to things: R in all, each with the number of its thing below M.

    Attributes:
        thing: ``[R]``.
        row: ``[R]``.
        column: ``[R]``.
        weight: coverage, float32 ``[R]``.
    """

    thing: NDArray[np.intp]
    row: NDArray[np.intp]
    column: NDArray[np.intp]
    weight: NDArray[np.float32]


@dataclass(frozen=True)
class _Things:
    """All things of a batch of frames, M of them.

    Attributes:
        frame: that each stands in, int ``[M]``.
        colour: index of its colour, int ``[M]``.
        x: centre from the left, float32 ``[M]``.
        y: centre from the top, float32 ``[M]``.
        radius: of the circle of equal area, float32 ``[M]``.
    """

    frame: NDArray[np.intp]
    colour: NDArray[np.intp]
    x: NDArray[np.float32]
    y: NDArray[np.float32]
    radius: NDArray[np.float32]


@dataclass(frozen=True)
class _Windows:
    """The surroundings of things, K pixels wide.

    Attributes:
        weights: coverage of the pixels around each thing, float32 ``[M, K, K]``.
        dx: window pixels right of the centre, float32 ``[M, 1, K]``.
        dy: window pixels below the centre, float32 ``[M, K, 1]``.
        radius: of the circle of equal area, float32 ``[M, 1, 1]``.
    """

    weights: NDArray[np.float32]
    dx: NDArray[np.float32]
    dy: NDArray[np.float32]
    radius: NDArray[np.float32]


def _unmix(frames: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Index of the nearest colour and coverage by it, both ``[N, H, W]``.

    A picture is matched against the rays from the background to each colour, so that an edge pixel counts by its share
    of the colour.
    """
    amount = _UNIT_RAYS @ (frames.reshape(-1, 3).astype(np.float32) - np.float32(BACKGROUND)).T
    explained = np.square(amount) * _SQUARES[:, None]
    explained *= amount > 0.25
    best, covered, nearest = explained[0], amount[0], np.zeros(amount.shape[1], np.uint8)
    for colour in range(1, len(_NAMES)):
        better = explained[colour] > best
        np.copyto(best, explained[colour], where=better)
        np.copyto(covered, amount[colour], where=better)
        nearest[better] = colour
    return nearest.reshape(frames.shape[:3]), covered.clip(0.0, 1.0).reshape(frames.shape[:3])


def _label(nearest: NDArray[np.uint8], covered: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Connected regions of one colour, on a plane for each colour that a frame holds.

    A region reaches one pixel into its own soft edge.

    Returns:
        Frame times colours plus colour of each plane, ``[L]``, and region numbers, ``[L, H, W]``; 0 is background.
    """
    count, height, width = nearest.shape
    frame, row, column = np.unravel_index(np.flatnonzero(covered > 0.5), nearest.shape)
    code = frame * len(_NAMES) + nearest[frame, row, column]
    held = np.bincount(code, minlength=count * len(_NAMES)) > 0
    planes = np.flatnonzero(held)
    # One pixel of margin, so that the neighbours of every pixel are plain slices.
    inside = np.zeros((len(planes), height + 2, width + 2), bool)
    inside[(np.cumsum(held) - 1)[code], row + 1, column + 1] = True
    padded = np.empty(inside.shape, np.int32)
    ndimage.label(inside, structure=_WITHIN_PLANE, output=padded)
    grown = np.maximum(padded[:, 1:-1, :-2], padded[:, 1:-1, 2:])
    np.maximum(grown, padded[:, :-2, 1:-1], out=grown)
    np.maximum(grown, padded[:, 2:, 1:-1], out=grown)
    labels = padded[:, 1:-1, 1:-1]
    np.copyto(grown, labels, where=labels > 0)
    owner, colour = np.divmod(planes, len(_NAMES))
    grown *= (nearest[owner] == colour[:, None, None]) & (covered[owner] > 0.0)
    return planes, grown


def _find(frames: NDArray[np.uint8]) -> tuple[_Things, _Pixels]:
    """The things of many pictures, uint8 ``[N, H, W, 3]``, and their pixels."""
    nearest, covered = _unmix(frames)
    planes, labels = _label(nearest, covered)
    flat = np.flatnonzero(labels)
    ids = labels.reshape(-1)[flat]
    plane, row, column = np.unravel_index(flat, labels.shape)
    weight = covered[planes[plane] // len(_NAMES), row, column]
    area = np.bincount(ids, weight)
    kept = np.flatnonzero(area >= MIN_AREA)
    x = (np.bincount(ids, weight * (column + 0.5))[kept] / area[kept]).astype(np.float32)
    y = (np.bincount(ids, weight * (row + 0.5))[kept] / area[kept]).astype(np.float32)
    owner = np.zeros(len(area), np.intp)
    owner[ids] = planes[plane]
    frame, colour = np.divmod(owner[kept], len(_NAMES))
    number = np.full(len(area), -1)
    number[kept] = np.arange(len(kept))
    mine = np.flatnonzero(area[ids] >= MIN_AREA)
    pixels = _Pixels(number[ids[mine]], row[mine], column[mine], weight[mine])
    return _Things(frame, colour, x, y, np.sqrt(area[kept] / _AREA).astype(np.float32)), pixels


def _windows(things: _Things, pixels: _Pixels) -> Iterator[tuple[NDArray[np.intp], _Windows]]:
    """The things in lots of about one size, each with windows that hold the things and their ideal outlines."""
    left, top = np.floor(things.x).astype(np.intp), np.floor(things.y).astype(np.intp)
    column, row = pixels.column - left[pixels.thing], pixels.row - top[pixels.thing]
    # The tip of a triangle lies 1.56 radii from its centre; its soft edge and the rounding of the centre come on top.
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
    """Direction in radians, ``[M]``, of the moment that turns ``fold`` times as fast as a thing does."""
    square = (windows.dx + 1j * windows.dy).astype(np.complex64)
    power = square * square
    power *= square if fold == 3 else power
    power *= windows.weights
    return np.angle(power.reshape(len(power), -1).sum(1)).astype(np.float32)


def _fits(windows: _Windows, shape: str, angle: NDArray[np.float32] | None) -> NDArray[np.float32]:
    """Overlap (intersection over union) of each thing with the ideal outline of ``shape`` at an angle in degrees.

    Args:
        windows: of M things.
        shape: one of `SHAPES`.
        angle: ``[M]``; upright when None.
    """
    dx, dy = windows.dx, windows.dy
    if angle is not None:
        turn = np.deg2rad(angle).reshape(-1, 1, 1)
        c, s = np.cos(turn), np.sin(turn)
        dx, dy = c * dx + s * dy, c * dy - s * dx
    ideal, rows = coverage(shape, dx, dy, radius=windows.radius), len(windows.weights)
    either = windows.weights.reshape(rows, -1).sum(1) + ideal.reshape(rows, -1).sum(1)
    both = np.minimum(windows.weights, ideal, out=ideal).reshape(rows, -1).sum(1)
    return both / (either - both)


def _recognise(windows: _Windows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Fit to each of `SHAPES` at its better angle, and the angle in degrees that its moment shows; ``[shapes, M]``."""
    moments = {fold: _moment(windows, fold) for fold in set(SYMMETRY.values()) - {0}}
    fits, angles = [], []
    for shape in SHAPES:
        fit, angle, fold = _fits(windows, shape, None), np.zeros(len(windows.weights), np.float32), SYMMETRY[shape]
        if fold:
            angle = np.rad2deg((moments[fold] - np.float32(_PHASE[shape])) / np.float32(fold))
            fit = np.maximum(fit, _fits(windows, shape, angle))
        fits.append(fit)
        angles.append(angle)
    return np.stack(fits), np.stack(angles)


def read_frames(frames: NDArray[np.uint8]) -> Reading:
    """The things in each of many pictures, uint8 ``[N, H, W, 3]``, from left to right."""
    found: list[list[Seen]] = []
    for start in range(0, len(frames), _CHUNK):
        found += _read_chunk(frames[start : start + _CHUNK])
    return tuple(tuple(frame) for frame in found)


def _read_chunk(frames: NDArray[np.uint8]) -> list[list[Seen]]:
    things, pixels = _find(frames)
    fits = np.empty((len(SHAPES), len(things.x)), np.float32)
    angles = np.empty_like(fits)
    for rows, windows in _windows(things, pixels):
        fits[:, rows], angles[:, rows] = _recognise(windows)
    order = np.argsort(things.x, kind="stable")
    best = fits.argmax(0)
    columns = (things.frame, best, things.colour, things.x, things.y, things.radius)
    chosen = (table[best, np.arange(len(best))] for table in (fits, angles))
    found: list[list[Seen]] = [[] for _ in frames]
    for frame, shape, colour, *measures in zip(
        *(column[order].tolist() for column in (*columns, *chosen)), strict=True
    ):
        found[frame].append(Seen(SHAPES[shape], _NAMES[colour], *measures))
    return found


def read_sample(sample: NDArray[np.uint8]) -> Reading:
    """What a sample shows.

    Args:
        sample: uint8 ``[H, W, 3]`` or ``[F, H, W, 3]``.

    Raises:
        ValueError: when it is neither.
    """
    if not _is_sample(sample.shape, sample.dtype):
        raise ValueError(f"expected uint8 [H, W, 3] or [F, H, W, 3], got {sample.dtype} {list(sample.shape)}")
    return read_frames(sample[None] if sample.ndim == 3 else sample)


def read_samples(samples: NDArray[np.uint8]) -> list[Reading]:
    """What each of a group's samples shows, read in one batch.

    Args:
        samples: uint8 ``[G, H, W, 3]`` or ``[G, F, H, W, 3]``.

    Raises:
        ValueError: when they are neither.
    """
    if not _is_sample(samples.shape[1:], samples.dtype):
        raise ValueError(f"expected uint8 [G, H, W, 3] or [G, F, H, W, 3], got {samples.dtype} {list(samples.shape)}")
    count, frames = len(samples), samples.shape[1] if samples.ndim == 5 else 1
    seen = read_frames(samples.reshape(count * frames, *samples.shape[-3:]))
    return [seen[start : start + frames] for start in range(0, count * frames, frames)]


def read_groups(groups: Sequence[NDArray[np.uint8]]) -> list[list[Reading] | None]:
    """What the samples of many groups show; groups with samples of one size are read in one batch.

    Args:
        groups: as for `read_samples`, sizes may differ.

    Returns:
        Readings of each group's samples; None for a group that `read_samples` refuses.
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


def _has_shape(thing: Seen, shape: str) -> bool:
    return thing.shape == shape and thing.fit >= MIN_FIT


def _looks(noun: Noun, thing: Seen | None) -> dict[str, bool]:
    """Which parts of a noun one thing meets."""
    parts = {f"shape {noun.shape}": thing is not None and _has_shape(thing, noun.shape)}
    if noun.colour:
        parts[f"colour {noun.colour}"] = thing is not None and thing.colour == noun.colour
    if noun.size:
        parts[f"size {noun.size}"] = thing is not None and (thing.radius > SIZE_BORDER) == (noun.size == "large")
    return parts


def _assign(nouns: Sequence[Noun], frame: Sequence[Seen], relation: str | None = None) -> tuple[Seen | None, ...]:
    """The things of a frame that meet most of what the nouns and the relation between them demand."""
    things = [*frame[:_MOST_THINGS], *[None] * len(nouns)]
    # Parts count most, then the relation by half a part, then that there is something at all.
    points = [[100 * sum(_looks(noun, thing).values()) + (thing is not None) for thing in things] for noun in nouns]

    def met(choice: tuple[int, ...]) -> int:
        found = sum(row[index] for row, index in zip(points, choice, strict=True))
        return found + (50 * _related([things[index] for index in choice], relation) if relation else 0)

    best = max(itertools.permutations(range(len(things)), len(nouns)), key=met)
    return tuple(things[index] for index in best)


def _related(things: Sequence[Seen | None], relation: str) -> bool:
    first, second = things
    if first is None or second is None:
        return False
    dx, dy = second.x - first.x, second.y - first.y
    return {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[relation] > 3.0


def _check_image(spec: Spec, frame: tuple[Seen, ...]) -> dict[str, bool]:
    constraints = {f"count {spec.total}": len(frame) == spec.total}
    if spec.category == "counting":
        shape = spec.nouns[0].shape
        constraints[f"shape {shape}"] = bool(frame) and all(_has_shape(thing, shape) for thing in frame)
        return constraints
    chosen = _assign(spec.nouns, frame, spec.relation)
    for number, (noun, thing) in enumerate(zip(spec.nouns, chosen, strict=True), start=1):
        constraints |= {f"{number} {part}": met for part, met in _looks(noun, thing).items()}
    if spec.relation:
        constraints[spec.relation] = _related(chosen, spec.relation)
    return constraints


Track = list[Seen | None]


def _moves(track: Track, direction: str) -> bool:
    points = np.array([(thing.x, thing.y) for thing in track if thing])
    if len(points) < 4:
        return False
    dx, dy = points[-1] - points[0]
    along, across = {"right": (dx, dy), "left": (-dx, dy), "down": (dy, dx), "up": (-dy, dx)}[direction]
    return bool(along > 7.0 and abs(across) < along / 2)


def _bounces(track: Track) -> bool:
    heights = np.array([thing.y for thing in track if thing])
    if len(heights) < 5:
        return False
    lowest = int(heights.argmax())
    return bool(min(heights[lowest] - heights[0], heights[lowest] - heights[-1]) > 5.0)


def _resizes(track: Track, change: str) -> bool:
    radii = np.array([thing.radius for thing in track if thing])
    if len(radii) < 4:
        return False
    ratio = radii[-1] / radii[0]
    return bool(ratio > 1.35 if change == "growing" else ratio < 1 / 1.35)


def _rotates(track: Track, shape: str) -> bool:
    angles = np.array([thing.angle for thing in track if thing and thing.shape == shape])
    if len(angles) < 5 or not SYMMETRY[shape]:
        return False
    turn = np.unwrap(angles, period=360.0 / SYMMETRY[shape])
    return bool(abs(turn[-1] - turn[0]) > 0.4 * 360.0 / SYMMETRY[shape])


def _passes(moving: Track, standing: Track) -> bool:
    both = [(a, b) for a, b in zip(moving, standing, strict=True) if a and b]
    if len(both) < 4:
        return False
    (first, mark), (last, mark_last) = both[0], both[-1]
    crosses = (first.x - mark.x) * (last.x - mark_last.x) < 0
    return crosses and abs(last.x - first.x) > 10.0 and abs(mark_last.x - mark.x) < 5.0


def _precedes(first: Track, second: Track) -> bool:
    starts = [next((frame for frame, thing in enumerate(track) if thing), None) for track in (first, second)]
    if starts[0] is None or starts[1] is None:
        return False
    return starts[1] - starts[0] >= 2 and first[-1] is not None and second[-1] is not None


def _meets_motion(spec: Spec, tracks: Sequence[Track]) -> bool:
    match spec.category:
        case "direction":
            return _moves(tracks[0], spec.motion or "")
        case "bouncing":
            return _bounces(tracks[0])
        case "growing":
            return _resizes(tracks[0], spec.motion or "")
        case "rotating":
            return _rotates(tracks[0], spec.nouns[0].shape)
        case "passing":
            return _passes(tracks[0], tracks[1])
        case _:
            return _precedes(tracks[0], tracks[1])


def _check_video(spec: Spec, reading: Reading) -> dict[str, bool]:
    chosen = [_assign(spec.nouns, frame) for frame in reading]
    tracks: list[Track] = [list(column) for column in zip(*chosen, strict=True)]
    if spec.category == "order":
        tracks = [[_if_fitting(noun, thing) for thing in track] for noun, track in zip(spec.nouns, tracks, strict=True)]
        right_count = len(reading[0]) == 1 and len(reading[-1]) == spec.total
    else:
        right_count = sum(len(frame) == spec.total for frame in reading) / len(reading) >= MOST_FRAMES
    constraints = {f"count {spec.total}": right_count}
    for number, (noun, track) in enumerate(zip(spec.nouns, tracks, strict=True), start=1):
        visible = [_looks(noun, thing) for thing in track if thing] or [_looks(noun, None)]
        for part in visible[0]:
            constraints[f"{number} {part}"] = sum(looks[part] for looks in visible) >= MOST_FRAMES * len(visible)
    constraints[f"motion {spec.motion}"] = _meets_motion(spec, tracks)
    return constraints


def _if_fitting(noun: Noun, thing: Seen | None) -> Seen | None:
    """A thing that is all that a noun asks for; otherwise None, so that nothing else can stand in for it."""
    return thing if thing and all(_looks(noun, thing).values()) else None


def check(spec: Spec, reading: Reading) -> Verdict:
    """Which constraints of a spec a reading meets.

    Raises:
        ValueError: when a caption about motion meets a single picture, or a caption for pictures a video.
    """
    if (spec.kind == "video") != (len(reading) > 1):
        raise ValueError(f"expected a sample of kind {spec.kind!r} for this caption, got {len(reading)} frame(s)")
    return Verdict(_check_video(spec, reading) if spec.kind == "video" else _check_image(spec, reading[0]))


def verify(caption: str | Spec, sample: NDArray[np.uint8]) -> Verdict:
    """Which constraints of a caption a sample meets, from its pixels alone.

    Args:
        caption: a caption of the small world, or the spec it stands for.
        sample: uint8 ``[H, W, 3]`` or ``[F, H, W, 3]``.

    Raises:
        ValueError: for a caption of another world or a sample of the wrong kind.
    """
    return check(parse_caption(caption) if isinstance(caption, str) else caption, read_sample(sample))
