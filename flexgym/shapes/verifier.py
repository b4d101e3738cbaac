"""What the pixels of a sample show, and which constraints of a caption they meet.

The verifier sees nothing but pixels and the caption. It is what every training claim is judged by, and the policy never
sees it unless it is chosen as the reward.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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

_NAMES = tuple(COLOURS)
_RAYS = np.array([np.subtract(COLOURS[name], BACKGROUND) for name in _NAMES], np.float32)
_UNIT_RAYS = _RAYS / np.square(_RAYS).sum(1, keepdims=True)
_AREA = 3.15
"""Area of every shape of radius 1, to within one part in a hundred."""
_REACH = 16
_WITHIN_FRAME = np.zeros((3, 3, 3, 3), bool)
_WITHIN_FRAME[1, 1] = ndimage.generate_binary_structure(2, 1)
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
class _Things:
    """All things of a batch of frames: M of them, each with the coverage of the pixels around it.

    Attributes:
        frames: frame of each, int ``[M]``.
        colours: index of its colour, int ``[M]``.
        weights: coverage in a window around it, float32 ``[M, K, K]``.
        x: centre from the left, float32 ``[M]``.
        y: centre from the top, float32 ``[M]``.
        dx: window pixels right of the centre, ``[M, 1, K]``.
        dy: window pixels below the centre, ``[M, K, 1]``.
        radius: of the circle of equal area, ``[M]``.
    """

    frames: NDArray[np.intp]
    colours: NDArray[np.intp]
    weights: NDArray[np.float32]
    x: NDArray[np.float32]
    y: NDArray[np.float32]
    dx: NDArray[np.float32]
    dy: NDArray[np.float32]
    radius: NDArray[np.float32]


def _segment(frames: NDArray[np.uint8]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Connected regions of one colour, int32 ``[N, colours, H, W]`` (0 is background), and coverage, ``[N, H, W]``.

    A region reaches one pixel into its own soft edge. A picture is matched against the rays from the background to
    each colour, so that an edge pixel counts by its share of the colour.
    """
    amount = (frames.astype(np.float32) - BACKGROUND) @ _UNIT_RAYS.T
    explained = np.where(amount > 0.25, np.square(amount) * np.square(_RAYS).sum(1), 0.0)
    nearest = explained.argmax(-1)
    covered = np.take_along_axis(amount, nearest[..., None], -1)[..., 0].clip(0.0, 1.0)
    own = nearest[:, None] == np.arange(len(_NAMES))[:, None, None]
    labels, _ = ndimage.label(own & (covered > 0.5)[:, None], structure=_WITHIN_FRAME)
    padded = np.pad(labels, ((0, 0), (0, 0), (1, 1), (1, 1)))
    around = [padded[..., 1:-1, :-2], padded[..., 1:-1, 2:], padded[..., :-2, 1:-1], padded[..., 2:, 1:-1]]
    grown = np.where(labels == 0, np.maximum.reduce(around), labels)
    return np.where(own & (covered > 0.0)[:, None], grown, 0), covered


def _find(frames: NDArray[np.uint8]) -> _Things:
    labels, covered = _segment(frames)
    where = np.nonzero(labels)
    ids, weight = labels[where], covered[where[0], where[2], where[3]]
    area = np.bincount(ids, weight)
    kept = np.flatnonzero(area >= MIN_AREA)
    x = (np.bincount(ids, weight * (where[3] + 0.5))[kept] / area[kept]).astype(np.float32)
    y = (np.bincount(ids, weight * (where[2] + 0.5))[kept] / area[kept]).astype(np.float32)
    owner = np.zeros((len(area), 2), np.intp)
    owner[ids] = np.stack(where[:2], 1)
    frame, colour = owner[kept].T
    rows = np.floor(y).astype(int)[:, None] + np.arange(-_REACH, _REACH)
    columns = np.floor(x).astype(int)[:, None] + np.arange(-_REACH, _REACH)
    padding = ((0, 0), (_REACH, _REACH), (_REACH, _REACH))
    window = (rows[:, :, None] + _REACH, columns[:, None, :] + _REACH)
    mine = np.pad(labels, ((0, 0), *padding))[(frame[:, None, None], colour[:, None, None], *window)] == kept[:, None, None]
    weights = np.where(mine, np.pad(covered, padding)[(frame[:, None, None], *window)], 0.0).astype(np.float32)
    dx = (columns + 0.5 - x[:, None]).astype(np.float32)[:, None, :]
    dy = (rows + 0.5 - y[:, None]).astype(np.float32)[:, :, None]
    return _Things(frame, colour, weights, x, y, dx, dy, np.sqrt(area[kept] / _AREA).astype(np.float32))


def _angles(things: _Things, shape: str) -> NDArray[np.float32]:
    """Turn of each thing against the upright ``shape`` in degrees, from its moment of the shape's symmetry."""
    fold, point = SYMMETRY[shape], (things.dx + 1j * things.dy).astype(np.complex64)
    power = point * point * (point if fold == 3 else point * point)
    moment = (things.weights * power).sum((1, 2))
    return np.rad2deg((np.angle(moment) - _PHASE[shape]) / fold).astype(np.float32)


def _fits(things: _Things, shape: str, angle: NDArray[np.float32] | float) -> NDArray[np.float32]:
    """Overlap (intersection over union) of each thing with the ideal outline of ``shape`` at an angle in degrees."""
    turn = np.deg2rad(np.asarray(angle, np.float32)).reshape(-1, 1, 1)
    c, s = np.cos(turn), np.sin(turn)
    dx, dy = c * things.dx + s * things.dy, c * things.dy - s * things.dx
    ideal = coverage(shape, dx, dy, things.radius[:, None, None])
    return np.minimum(things.weights, ideal).sum((1, 2)) / np.maximum(things.weights, ideal).sum((1, 2))


def read_frames(frames: NDArray[np.uint8]) -> Reading:
    """The things in each of many pictures, uint8 ``[N, H, W, 3]``, from left to right."""
    things = _find(frames)
    angles = {shape: _angles(things, shape) if SYMMETRY[shape] else np.zeros_like(things.x) for shape in SHAPES}
    fits = np.stack([np.maximum(_fits(things, shape, angles[shape]), _fits(things, shape, 0.0)) for shape in SHAPES])
    found: list[list[Seen]] = [[] for _ in frames]
    for row in np.argsort(things.x, kind="stable"):
        best = int(fits[:, row].argmax())
        shape, colour = SHAPES[best], _NAMES[things.colours[row]]
        place = (float(things.x[row]), float(things.y[row]), float(things.radius[row]))
        seen = Seen(shape, colour, *place, float(fits[best, row]), float(angles[shape][row]))
        found[things.frames[row]].append(seen)
    return tuple(tuple(frame) for frame in found)


def read_sample(sample: NDArray[np.uint8]) -> Reading:
    """What a sample shows.

    Args:
        sample: uint8 ``[H, W, 3]`` or ``[F, H, W, 3]``.

    Raises:
        ValueError: when it is neither.
    """
    if sample.ndim not in (3, 4) or sample.shape[-1] != 3 or sample.dtype != np.uint8:
        raise ValueError(f"expected uint8 [H, W, 3] or [F, H, W, 3], got {sample.dtype} {list(sample.shape)}")
    return read_frames(sample[None] if sample.ndim == 3 else sample)


def read_samples(samples: NDArray[np.uint8]) -> list[Reading]:
    """What each of a group's samples shows, uint8 ``[G, H, W, 3]`` or ``[G, F, H, W, 3]``, read in one batch."""
    count, frames = len(samples), samples.shape[1] if samples.ndim == 5 else 1
    seen = read_frames(samples.reshape(count * frames, *samples.shape[-3:]))
    return [seen[start : start + frames] for start in range(0, count * frames, frames)]


def _looks(noun: Noun, thing: Seen | None) -> dict[str, bool]:
    """Which parts of a noun one thing meets."""
    parts = {f"shape {noun.shape}": thing is not None and thing.shape == noun.shape and thing.fit >= MIN_FIT}
    if noun.colour:
        parts[f"colour {noun.colour}"] = thing is not None and thing.colour == noun.colour
    if noun.size:
        parts[f"size {noun.size}"] = thing is not None and (thing.radius > SIZE_BORDER) == (noun.size == "large")
    return parts


def _assign(nouns: Sequence[Noun], frame: Sequence[Seen], relation: str | None = None) -> tuple[Seen | None, ...]:
    """The things of a frame that meet most of what the nouns and the relation between them demand."""
    padded = [*frame, *[None] * len(nouns)]
    choices = dict.fromkeys(itertools.permutations(padded[:6] if len(frame) > 6 else padded, len(nouns)))

    def met(choice: tuple[Seen | None, ...]) -> float:
        points = sum(sum(_looks(noun, thing).values()) for noun, thing in zip(nouns, choice, strict=True))
        present = sum(thing is not None for thing in choice)
        return points + (0.5 * _related(choice, relation) if relation else 0.0) + 0.01 * present

    return max(choices, key=met)


def _related(things: tuple[Seen | None, ...], relation: str) -> bool:
    first, second = things
    if first is None or second is None:
        return False
    dx, dy = second.x - first.x, second.y - first.y
    return {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[relation] > 3.0


def _check_image(spec: Spec, frame: tuple[Seen, ...]) -> dict[str, bool]:
    constraints = {f"count {spec.total}": len(frame) == spec.total}
    if spec.category == "counting":
        shape = spec.nouns[0].shape
        constraints[f"shape {shape}"] = bool(frame) and all(_looks(Noun(shape), thing)[f"shape {shape}"] for thing in frame)
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
    tracks: list[Track] = [list(column) for column in zip(*(_assign(spec.nouns, frame) for frame in reading), strict=True)]
    if spec.category == "order":
        tracks = [[thing if thing and all(_looks(noun, thing).values()) else None for thing in track] for noun, track in zip(spec.nouns, tracks, strict=True)]
        right_count = len(reading[0]) == 1 and len(reading[-1]) == spec.total
    else:
        right_count = float(np.mean([len(frame) == spec.total for frame in reading])) >= MOST_FRAMES
    constraints = {f"count {spec.total}": right_count}
    for number, (noun, track) in enumerate(zip(spec.nouns, tracks, strict=True), start=1):
        visible = [_looks(noun, thing) for thing in track if thing] or [_looks(noun, None)]
        for part in visible[0]:
            constraints[f"{number} {part}"] = sum(looks[part] for looks in visible) >= MOST_FRAMES * len(visible)
    constraints[f"motion {spec.motion}"] = _meets_motion(spec, tracks)
    return constraints


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
