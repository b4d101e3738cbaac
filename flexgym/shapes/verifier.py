"""Verify which constraints of a caption a sample satisfies.

The verifier sees only the pixels and the caption. All claims about training are measured with it, and it does not
affect training unless it is chosen as the reward.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexgym.shapes.captions import BETWEEN, DIRECTIONS, RESIZES, SPEEDS, Noun, Spec, parse_caption
from flexgym.shapes.reading import Reading, Seen, read_sample, read_samples
from flexgym.shapes.scenes import OUTLINES

MIN_FIT = 0.8
"""Minimum intersection over union with the ideal outline for an object to count as that shape."""
SIZE_BORDERS = (4.5, 6.8)
"""Radii in pixels that separate small, medium and large."""
MOST_FRAMES = 0.7
"""Share of a video's frames in which an object must look right."""
_APART = 3.0
"""Distance in pixels between centers from which one object is on a side of the other."""
_MIDDLE, _OFF_LINE = (0.2, 0.8), 0.25
"""Share of the way between two objects at which a third is between them, and distance from their line as a share."""
_MOVES, _STILL = 6.0, 3.0
"""Distance in pixels above which an object moves, and below which it stays."""
_SPEED_BORDERS = (11.0, 17.0)
"""Distances in pixels, over a whole video, that separate slow, plain and quick motion."""
_STEADY = ("stays", "drifts")
_VERBS = {"bouncing": "bounces", "growing": "grows", "shrinking": "shrinks", "rotating": "rotates"}
MOTIONS_OF_ONE = (
    *(f"moves {way}" for way in DIRECTIONS),
    *(f"moves {way} {speed}" for way in DIRECTIONS for speed in SPEEDS),
    *_VERBS.values(),
    *_STEADY,
)
"""What `seen_motion` says of one object; for category ``standing`` of each of two, joined by a comma."""
MOTIONS_OF_TWO = ("the first passes", "the second passes", "the first comes earlier", "the second comes earlier")
"""What `seen_motion` says of two objects, unless both stay or one drifts."""
_MOST_THINGS = 6
"""Maximum number of objects per frame, from the left, to match with a caption; with more, the count is wrong anyway."""

Track = Sequence[Seen | None]
"""The object matched to a noun in each frame."""


@dataclass(frozen=True)
class Verdict:
    """Constraints of a caption, and whether a sample satisfies them.

    Attributes:
        constraints: one entry per constraint, such as ``"1 color red"``.
    """

    constraints: Mapping[str, bool]

    @property
    def satisfied(self) -> bool:
        """Return True if every constraint is satisfied."""
        return all(self.constraints.values())

    @property
    def score(self) -> float:
        """Return the share of satisfied constraints, 0 to 1."""
        return sum(self.constraints.values()) / len(self.constraints)


def size_word(thing: Seen) -> str:
    """Return the size of an object: ``"small"``, ``"medium"`` or ``"large"``."""
    return ("small", "medium", "large")[sum(thing.radius > border for border in SIZE_BORDERS)]


def _looks(noun: Noun, thing: Seen | None) -> dict[str, bool]:
    """Return which parts of a noun an object satisfies."""
    parts = {f"shape {noun.shape}": thing is not None and thing.shape == noun.shape and thing.fit >= MIN_FIT}
    if noun.color:
        parts[f"color {noun.color}"] = thing is not None and thing.color == noun.color
    if noun.size:
        parts[f"size {noun.size}"] = thing is not None and size_word(thing) == noun.size
    return parts


def assign(nouns: Sequence[Noun], frame: Sequence[Seen], relation: str | None = None) -> tuple[Seen | None, ...]:
    """Match nouns to the objects of a frame such that they satisfy as many constraints as possible.

    Args:
        nouns: nouns of a caption.
        frame: objects in an image.
        relation: relation between the nouns, if any.

    Returns:
        The object matched to each noun; None if no object remains.
    """
    things = [*frame[:_MOST_THINGS], *[None] * (len(nouns) - len(frame))]
    # A part of a noun has weight 100, the relation 50, and the mere presence of an object 1.
    points = [[100 * sum(_looks(noun, thing).values()) + (thing is not None) for thing in things] for noun in nouns]

    def met(choice: tuple[int, ...]) -> int:
        found = sum(row[index] for row, index in zip(points, choice, strict=True))
        return found + (50 * _related([things[index] for index in choice], relation) if relation else 0)

    best = max(itertools.permutations(range(len(things)), len(nouns)), key=met)
    return tuple(things[index] for index in best)


def _related(things: Sequence[Seen | None], relation: str) -> bool:
    present = [thing for thing in things if thing]
    if len(present) < len(things):
        return False
    if relation == BETWEEN:
        share, off = way_between(*present)
        return _MIDDLE[0] < share < _MIDDLE[1] and off < _OFF_LINE
    return distance_along(relation, *present) > _APART


def distance_along(relation: str, first: Seen, second: Seen) -> float:
    """Return how far the first object is on the given side of the second, in pixels."""
    dx, dy = second.x - first.x, second.y - first.y
    return {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[relation]


def way_between(middle: Seen, first: Seen, second: Seen) -> tuple[float, float]:
    """Locate an object on the way from one object to another.

    Returns:
        The share of the way at which it is, 0 at the first and 1 at the second, and how far it is off the line, as a
        share of the way's length.
    """
    way_x, way_y, step_x, step_y = second.x - first.x, second.y - first.y, middle.x - first.x, middle.y - first.y
    square = max(way_x**2 + way_y**2, 1e-6)
    return (step_x * way_x + step_y * way_y) / square, abs(step_x * way_y - step_y * way_x) / square


def check_frame(spec: Spec, frame: Sequence[Seen]) -> dict[str, bool]:
    """Return which constraints a single image satisfies, ignoring any motion."""
    constraints = {f"count {spec.total}": len(frame) == spec.total}
    if spec.category == "counting":
        looks = [_looks(spec.nouns[0], thing) for thing in frame or (None,)]
        return constraints | {f"1 {part}": all(parts[part] for parts in looks) for part in looks[0]}
    chosen = assign(spec.nouns, frame, spec.relation)
    for number, (noun, thing) in enumerate(zip(spec.nouns, chosen, strict=True), start=1):
        constraints |= {f"{number} {part}": met for part, met in _looks(noun, thing).items()}
    if spec.relation:
        constraints[spec.relation] = _related(chosen, spec.relation)
    if spec.absent:
        unwanted = (spec.absent.shape, spec.absent.color)
        constraints[f"no {spec.absent.kind}"] = unwanted not in [(thing.shape, thing.color) for thing in frame]
    return constraints


def advance(track: Track, direction: str) -> tuple[float, float]:
    """Return how far an object moves along a direction and across it, in pixels.

    The distance is scaled to the whole video if the object is not there at its beginning or end, and zero if it is
    there in fewer than four frames.
    """
    seen = [(frame, thing) for frame, thing in enumerate(track) if thing]
    if len(seen) < 4:
        return 0.0, 0.0
    (start, first), (stop, last) = seen[0], seen[-1]
    scale = (len(track) - 1) / (stop - start)
    dx, dy = scale * (last.x - first.x), scale * (last.y - first.y)
    return {"right": (dx, dy), "left": (-dx, dy), "down": (dy, dx), "up": (-dy, dx)}[direction]


def distance_moved(track: Track) -> float:
    """Return the distance in pixels between the places of an object at the beginning and at the end of a video."""
    return float(np.hypot(*advance(track, "right")))


def _moves(track: Track, direction: str) -> bool:
    along, across = advance(track, direction)
    return along > _MOVES and abs(across) < along / 2


def _speed(track: Track) -> str | None:
    """Return one of `SPEEDS`; None if an object moves at medium speed or not at all."""
    distance = distance_moved(track)
    if distance <= _MOVES or _SPEED_BORDERS[0] <= distance <= _SPEED_BORDERS[1]:
        return None
    return "slowly" if distance < _SPEED_BORDERS[0] else "quickly"


def _stays(track: Track) -> bool:
    """Return True if an object is seen in four frames or more and hardly moves."""
    return sum(thing is not None for thing in track) >= 4 and distance_moved(track) < _STILL


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
    if len(angles) < 5 or not OUTLINES[shape].symmetry:
        return False
    period = 360.0 / OUTLINES[shape].symmetry
    turn = np.unwrap(angles, period=period)
    return bool(abs(turn[-1] - turn[0]) > 0.4 * period)


def _passes(moving: Track, standing: Track) -> bool:
    both = [(a, b) for a, b in zip(moving, standing, strict=True) if a and b]
    if len(both) < 4 or not _stays(standing):
        return False
    (first, mark), (last, mark_last) = both[0], both[-1]
    return (first.x - mark.x) * (last.x - mark_last.x) < 0 and abs(last.x - first.x) > 10.0


def _precedes(first: Track, second: Track) -> bool:
    starts = [next((frame for frame, thing in enumerate(track) if thing), None) for track in (first, second)]
    if starts[0] is None or starts[1] is None:
        return False
    return starts[1] - starts[0] >= 2 and first[-1] is not None and second[-1] is not None


_MOTION_TESTS: dict[str, Callable[[Spec, Sequence[Track]], bool]] = {
    "direction": lambda spec, tracks: _moves(tracks[0], spec.motion or ""),
    "bouncing": lambda _, tracks: _bounces(tracks[0]),
    "growing": lambda spec, tracks: _resizes(tracks[0], spec.motion or ""),
    "rotating": lambda spec, tracks: _rotates(tracks[0], spec.nouns[0].shape),
    "passing": lambda _, tracks: _passes(*tracks),
    "standing": lambda spec, tracks: _moves(tracks[0], spec.motion or ""),
    "order": lambda _, tracks: _precedes(*tracks),
}
"""Test of the motion that a caption names, by category."""


def _motion_constraints(spec: Spec, tracks: Sequence[Track]) -> dict[str, bool]:
    constraints = {f"motion {spec.motion}": _MOTION_TESTS[spec.category](spec, tracks)}
    if spec.speed:
        constraints[f"speed {spec.speed}"] = _speed(tracks[0]) == spec.speed
    if spec.category == "standing":
        constraints["2 still"] = _stays(tracks[1])
    return constraints


def seen_motion(spec: Spec, reading: Reading) -> str:
    """Describe the motion that a video shows of the objects named in a caption, such as ``"moves left"``.

    Args:
        spec: meaning of the caption, whose nouns are used but not its motion. The speed is described if it names one.
        reading: objects in each frame.
    """
    tracks = _tracks(spec, reading)
    if spec.category in ("passing", "order"):
        shows = [test(*way) for test in (_passes, _precedes) for way in (tracks, tracks[::-1])]
        return next(itertools.compress(MOTIONS_OF_TWO, shows), _STEADY[not all(map(_stays, tracks))])
    return ", ".join(_motion_of_one(track, speed=bool(spec.speed)) for track in tracks)


def asked_motion(spec: Spec) -> str:
    """Return the motion that a caption of a video asks for, in the words of `seen_motion`."""
    if spec.category in ("passing", "order"):
        return MOTIONS_OF_TWO[0 if spec.category == "passing" else 2]
    if spec.motion in DIRECTIONS:
        moves = " ".join(word for word in ("moves", spec.motion, spec.speed) if word)
        return f"{moves}, {_STEADY[0]}" if spec.category == "standing" else moves
    return _VERBS[spec.motion or ""]


def _motion_of_one(track: Track, *, speed: bool) -> str:
    way = next((way for way in DIRECTIONS if _moves(track, way)), None)
    if way:
        return " ".join(word for word in ("moves", way, _speed(track) if speed else None) if word)
    shapes = {thing.shape for thing in track if thing}
    shows = [_bounces(track), *(_resizes(track, change) for change in RESIZES)]
    shows.append(any(_rotates(track, shape) for shape in shapes))
    return next(itertools.compress(_VERBS.values(), shows), _STEADY[not _stays(track)])


def _tracks(spec: Spec, reading: Reading) -> list[Track]:
    """Return for each noun the object matched to it in each frame."""
    chosen = [assign(spec.nouns, frame) for frame in reading]
    tracks: list[Track] = list(zip(*chosen, strict=True))
    if spec.category != "order":
        return tracks
    return [[_if_fitting(noun, thing) for thing in track] for noun, track in zip(spec.nouns, tracks, strict=True)]


def _if_fitting(noun: Noun, thing: Seen | None) -> Seen | None:
    """Return the object if it satisfies the noun completely, otherwise None, so that no other object can replace it."""
    return thing if thing and all(_looks(noun, thing).values()) else None


def _check_video(spec: Spec, reading: Reading) -> dict[str, bool]:
    tracks = _tracks(spec, reading)
    if spec.category == "order":
        right_count = len(reading[0]) == 1 and len(reading[-1]) == spec.total
    else:
        right_count = sum(len(frame) == spec.total for frame in reading) / len(reading) >= MOST_FRAMES
    constraints = {f"count {spec.total}": right_count}
    for number, (noun, track) in enumerate(zip(spec.nouns, tracks, strict=True), start=1):
        visible = [_looks(noun, thing) for thing in track if thing] or [_looks(noun, None)]
        for part in visible[0]:
            constraints[f"{number} {part}"] = sum(looks[part] for looks in visible) >= MOST_FRAMES * len(visible)
    return constraints | _motion_constraints(spec, tracks)


def check(spec: Spec, reading: Reading) -> Verdict:
    """Check which constraints of a spec a reading satisfies.

    Raises:
        ValueError: if a video caption is checked against a single image, or an image caption against a video.
    """
    if (spec.modality == "video") != (len(reading) > 1):
        raise ValueError(
            f"expected a sample of modality {spec.modality!r} for this caption, got {len(reading)} frame(s)"
        )
    return Verdict(_check_video(spec, reading) if spec.modality == "video" else check_frame(spec, reading[0]))


def verify(caption: str | Spec, sample: NDArray[np.uint8]) -> Verdict:
    """Verify which constraints of a caption a sample satisfies, from its pixels alone.

    Args:
        caption: a caption of the small world, or its meaning.
        sample: uint8 ``[H, W, 3]`` or ``[F, H, W, 3]``.

    Raises:
        ValueError: if the caption is not from the small world, or the sample has the wrong modality.
    """
    return check(parse_caption(caption) if isinstance(caption, str) else caption, read_sample(sample))


def shares_met(captions: Sequence[str], samples: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the share of the constraints of its caption that each sample satisfies.

    Args:
        captions: N captions of the small world.
        samples: one for each, uint8 ``[N, H, W, 3]`` or ``[N, F, H, W, 3]``.

    Returns:
        float32 ``[N]`` in 0..1.

    Raises:
        ValueError: for a caption from outside the small world or samples of another modality.
    """
    pairs = zip(map(parse_caption, captions), read_samples(samples), strict=True)
    return np.array([check(spec, reading).score for spec, reading in pairs], np.float32)
