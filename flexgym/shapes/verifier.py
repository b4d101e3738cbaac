"""Verify which constraints of a caption a sample satisfies.

The verifier sees only the pixels and the caption. All claims about training are measured with it, and it does not
affect training unless it is chosen as the reward.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexgym.shapes.captions import DIRECTIONS, RESIZES, Noun, Spec, parse_caption
from flexgym.shapes.reading import Reading, Seen, read_sample
from flexgym.shapes.scenes import SYMMETRY

MIN_FIT = 0.66
"""Minimum intersection over union with the ideal outline for an object to count as that shape."""
SIZE_BORDER = 6.0
"""Radius in pixels that separates small from large."""
MOST_FRAMES = 0.7
"""Share of a video's frames in which an object must look right."""
_MOTIONS_OF_ONE = (*(f"moves {way}" for way in DIRECTIONS), "bounces", "grows", "shrinks", "rotates")
_MOTIONS_OF_TWO = ("the first passes", "the second passes", "the first comes earlier", "the second comes earlier")
_STILL = "stays"
MOTIONS_SEEN = (*_MOTIONS_OF_ONE, *_MOTIONS_OF_TWO, _STILL)
"""Possible results of `seen_motion`."""
_MOST_THINGS = 6
"""Maximum number of objects per frame, from the left, to match with a caption; with more, the count is wrong anyway."""


@dataclass(frozen=True)
class Verdict:
    """Constraints of a caption, and whether a sample satisfies them.

    Attributes:
        constraints: one entry per constraint, such as ``"1 colour red"``.
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


def _looks(noun: Noun, thing: Seen | None) -> dict[str, bool]:
    """Return which parts of a noun an object satisfies."""
    parts = {f"shape {noun.shape}": thing is not None and thing.shape == noun.shape and thing.fit >= MIN_FIT}
    if noun.color:
        parts[f"colour {noun.color}"] = thing is not None and thing.color == noun.color
    if noun.size:
        parts[f"size {noun.size}"] = thing is not None and (thing.radius > SIZE_BORDER) == (noun.size == "large")
    return parts


def assign(nouns: Sequence[Noun], frame: Sequence[Seen], relation: str | None = None) -> tuple[Seen | None, ...]:
    """Match nouns to the objects of a frame such that they satisfy as many constraints as possible.

    Args:
        nouns: nouns of a caption.
        frame: objects in an image.
        relation: relation between the first two nouns, if any.

    Returns:
        The object matched to each noun; None if no object remains.
    """
    things = [*frame[:_MOST_THINGS], *[None] * len(nouns)]
    # A part of a noun has weight 100, the relation 50, and the mere presence of an object 1.
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


def seen_motion(spec: Spec, reading: Reading) -> str:
    """Describe the motion that a video shows of the objects named in a caption, such as ``"moves left"``.

    Args:
        spec: meaning of the caption, whose nouns are used but not its motion.
        reading: objects in each frame.
    """
    tracks = _tracks(spec, reading)
    if len(tracks) == 1:
        shows = [*(_moves(tracks[0], way) for way in DIRECTIONS), _bounces(tracks[0])]
        shapes = [thing.shape for thing in tracks[0] if thing]
        shows += [*(_resizes(tracks[0], way) for way in RESIZES), any(_rotates(tracks[0], each) for each in {*shapes})]
        names = _MOTIONS_OF_ONE
    else:
        shows = [seen(*way) for seen in (_passes, _precedes) for way in (tracks, tracks[::-1])]
        names = _MOTIONS_OF_TWO
    return next(itertools.compress(names, shows), _STILL)


def _tracks(spec: Spec, reading: Reading) -> list[Track]:
    """Return for each noun the object matched to it in each frame."""
    chosen = [assign(spec.nouns, frame) for frame in reading]
    tracks: list[Track] = [list(column) for column in zip(*chosen, strict=True)]
    if spec.category != "order":
        return tracks
    return [[_if_fitting(noun, thing) for thing in track] for noun, track in zip(spec.nouns, tracks, strict=True)]


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
    constraints[f"motion {spec.motion}"] = _meets_motion(spec, tracks)
    return constraints


def _if_fitting(noun: Noun, thing: Seen | None) -> Seen | None:
    """Return the object if it satisfies the noun completely, otherwise None, so that no other object can replace it."""
    return thing if thing and all(_looks(noun, thing).values()) else None


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
