"""Draw scenes and videos that satisfy a caption.

Things are placed on a coarse grid with a little jitter, so that a small model can learn where they go.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from flexgym.shapes.captions import BETWEEN, DIRECTIONS, Noun, Spec, phrasings
from flexgym.shapes.scenes import FRAMES, OUTLINES, SIZE, Scene, Thing, render
from flexgym.shapes.splits import colorings, specs
from flexgym.types import Prompt, SampleGroup

CENTER = SIZE / 2
RADII = {"small": (3.4, 4.0), "medium": (5.0, 6.2), "large": (7.6, 8.4), "pair": (4.2, 5.0), "several": (3.0, 3.3)}
"""Range of radii in pixels: of a thing that is alone by its size, of each of two, and of each of more."""
_VIDEO_RADII = (5.0, 5.5)
"""Range of the radii of things that move, and of others beside them."""
_VIDEO_JITTER = 0.3
"""Largest displacement, in pixels, of the places and paths in a video."""
REACH = {"slowly": (7.7, 8.3), None: (13.7, 14.3), "quickly": (19.2, 19.8)}
"""Range of the distance in pixels that a moving thing covers, by the word for its speed."""
_LANES = (8.0, CENTER, 24.0)
_OUTER_LANES = (5.2, CENTER, 26.8)
_PAIR_BOARD = tuple(itertools.product(_LANES, _LANES))
_BOARD = tuple(itertools.product(_OUTER_LANES, _OUTER_LANES))
_LINES = tuple(
    (first, middle, last)
    for first, middle, last in itertools.product(_BOARD, repeat=3)
    if first != last and (first[0] + last[0], first[1] + last[1]) == (2 * middle[0], 2 * middle[1])
)
"""Three places in a row, a column or a diagonal of the board."""
Place = tuple[float, float]
Curve = NDArray[np.float64]


def draw_spec(rng: np.random.Generator, modality: str, split: str) -> Spec:
    """Draw a meaning, with equal probability for each category and for each meaning in it."""
    by_category = specs(modality, split)
    members = by_category[list(by_category)[rng.integers(len(by_category))]]
    return members[rng.integers(len(members))]


def draw_caption(rng: np.random.Generator, spec: Spec) -> str:
    """Draw one of the captions that express a spec."""
    choices = phrasings(spec)
    return choices[rng.integers(len(choices))]


def wrong_spec(rng: np.random.Generator, spec: Spec) -> Spec:
    """Draw another training spec of the same category, for a caption that is wrong in a plausible way."""
    members = specs(spec.modality, "training")[spec.category]
    while (other := members[rng.integers(len(members))]) == spec:
        pass
    return other


def draw_group(rng: np.random.Generator, size: int) -> SampleGroup:
    """Draw a caption with ``size`` rendered scenes, about half of them for another caption of its category."""
    spec = draw_spec(rng, "image", "training")
    shown = [spec if rng.random() < 0.5 else wrong_spec(rng, spec) for _ in range(size)]
    return SampleGroup(Prompt(draw_caption(rng, spec)), np.stack([render(draw_scene(rng, each)) for each in shown]))


def with_colors(rng: np.random.Generator, spec: Spec) -> Spec:
    """Draw the colors that a caption leaves open, such that the scene belongs to the split of the caption.

    Raises:
        ValueError: with any colors, it would belong to another split.
    """
    choices = colorings(spec)
    if not choices:
        raise ValueError(f"expected a caption of one of the splits, got {phrasings(spec)[0]!r}: name a color")
    return choices[rng.integers(len(choices))]


def draw_scene(rng: np.random.Generator, spec: Spec) -> Scene:
    """Draw a scene that satisfies an image spec and belongs to its split."""
    spec = with_colors(rng, spec)
    nouns = [noun for noun in spec.nouns for _ in range(noun.count)]
    crowd = {1: "medium", 2: "pair"}.get(spec.total, "several")
    places = _places(rng, spec)
    return tuple(
        _placed(noun, place, radius=float(rng.uniform(*RADII[noun.size or crowd])))
        for noun, place in zip(nouns, places, strict=True)
    )


def _places(rng: np.random.Generator, spec: Spec) -> list[Place]:
    """Draw places: for one thing near the center, for two on opposite sides, for more anywhere on the board."""
    if spec.total == 1:
        return [(float(x), float(y)) for x, y in rng.uniform(CENTER - 3.0, CENTER + 3.0, (1, 2))]
    if spec.relation == BETWEEN:
        first, middle, last = _LINES[rng.integers(len(_LINES))]
        chosen: Sequence[Place] = (middle, first, last)
    elif spec.total == 2:
        pairs = [both for both in itertools.permutations(_PAIR_BOARD, 2) if _are_apart(*both, spec.relation)]
        chosen = pairs[rng.integers(len(pairs))]
    else:
        chosen = [_BOARD[index] for index in rng.permutation(len(_BOARD))[: spec.total]]
    return [(x + float(rng.uniform(-0.2, 0.2)), y + float(rng.uniform(-0.2, 0.2))) for x, y in chosen]


def _are_apart(first: Place, second: Place, relation: str | None) -> bool:
    dx, dy = second[0] - first[0], second[1] - first[1]
    farthest = max(abs(dx), abs(dy))
    along = {"left of": dx, "right of": -dx, "above": dy, "below": -dy}
    return farthest > 8.0 and (relation is None or along[relation] == farthest)


def _placed(noun: Noun, place: Place, *, radius: float) -> Thing:
    """Place a thing such that its outline is centered; the center of a triangle is below the middle of its height."""
    assert noun.color
    drop = 0.39 * radius if noun.shape == "triangle" else 0.0
    return Thing(noun.shape, noun.color, place[0], place[1] + drop, radius)


def draw_clip(rng: np.random.Generator, spec: Spec) -> list[Scene]:
    """Draw a video of `FRAMES` scenes that satisfies a video spec and belongs to its split."""
    spec = with_colors(rng, spec)
    if spec.category == "order":
        scene = draw_scene(rng, Spec("binding", spec.nouns))
        start = int(rng.integers(3, 6))
        return [scene[:1] if frame < start else scene for frame in range(FRAMES)]
    tracks = {"passing": _passing, "standing": _standing}.get(spec.category, _alone)(rng, spec)
    return [tuple(frame) for frame in zip(*tracks, strict=True)]


def _jitter(rng: np.random.Generator) -> float:
    return float(rng.uniform(-_VIDEO_JITTER, _VIDEO_JITTER))


def _still(value: float) -> Curve:
    return np.full(FRAMES, value)


def _sweep(rng: np.random.Generator, direction: str, speed: str | None) -> Curve:
    """Return the coordinate along which a thing moves, around the center."""
    reach = rng.uniform(*REACH[speed])
    middle = CENTER + _jitter(rng)
    ends = (-0.5, 0.5) if direction in ("right", "down") else (0.5, -0.5)
    return middle + reach * np.linspace(*ends, FRAMES)


def _track(noun: Noun, x: Curve, y: Curve, *, radius: Curve | float) -> list[Thing]:
    rows = zip(*np.broadcast_arrays(x, y, radius), strict=True)
    return [_placed(noun, (float(x), float(y)), radius=float(r)) for x, y, r in rows]


def _alone(rng: np.random.Generator, spec: Spec) -> list[list[Thing]]:
    noun, motion, radius = spec.nouns[0], spec.motion or "", float(rng.uniform(*_VIDEO_RADII))
    lane = _LANES[rng.integers(3)] + _jitter(rng)
    time = np.linspace(0.0, 1.0, FRAMES)
    if motion in DIRECTIONS:
        sweep = _sweep(rng, motion, spec.speed)
        x, y = (sweep, _still(lane)) if motion in ("left", "right") else (_still(lane), sweep)
        return [_track(noun, x, y, radius=radius)]
    if motion == "bouncing":
        high, low = 8.0 + _jitter(rng), 24.0 + _jitter(rng)
        return [_track(noun, _still(lane), low - (low - high) * (2.0 * time - 1.0) ** 2, radius=radius)]
    x, y = _still(CENTER + _jitter(rng)), _still(CENTER + _jitter(rng))
    if motion == "rotating":
        turn = rng.choice([-1.0, 1.0]) * 0.8 * 360.0 / OUTLINES[noun.shape].symmetry
        return [_turning(noun, (x, y), radius=float(rng.uniform(6.6, 7.4)), angle=turn * time)]
    small, large = rng.uniform(3.6, 4.2), rng.uniform(7.2, 8.2)
    share = time if motion == "growing" else 1.0 - time
    return [_track(noun, x, y, radius=small + (large - small) * share)]


def _turning(noun: Noun, place: tuple[Curve, Curve], *, radius: float, angle: Curve) -> list[Thing]:
    """Return a thing that turns around its own center, which stays where it is."""
    assert noun.color
    return [
        Thing(noun.shape, noun.color, float(x), float(y), radius, float(a))
        for x, y, a in zip(*place, angle, strict=True)
    ]


def _passing(rng: np.random.Generator, spec: Spec) -> list[list[Thing]]:
    first, second = spec.nouns
    lane, other = (8.0, 24.0) if rng.random() < 0.5 else (24.0, 8.0)
    ends = (7.5, SIZE - 7.5) if rng.random() < 0.5 else (SIZE - 7.5, 7.5)
    radii = rng.uniform(*_VIDEO_RADII, 2)
    moving = _track(first, np.linspace(*ends, FRAMES), _still(lane + _jitter(rng)), radius=radii[0])
    standing = _track(second, _still(CENTER + _jitter(rng)), _still(other + _jitter(rng)), radius=radii[1])
    return [moving, standing]


def _standing(rng: np.random.Generator, spec: Spec) -> list[list[Thing]]:
    """Return one thing that moves in its lane, and one that stays at an end of the other lane, so it is not passed."""
    direction = spec.motion or ""
    lanes = (8.0, 24.0) if rng.random() < 0.5 else (24.0, 8.0)
    radii = rng.uniform(*_VIDEO_RADII, 2)
    sweep, end = _sweep(rng, direction, None), (7.5, SIZE - 7.5)[rng.integers(2)]
    curves = [
        (sweep, _still(lanes[0] + _jitter(rng))),
        (_still(end + _jitter(rng)), _still(lanes[1] + _jitter(rng))),
    ]
    if direction in ("up", "down"):
        curves = [(y, x) for x, y in curves]
    return [_track(noun, *curve, radius=radius) for noun, curve, radius in zip(spec.nouns, curves, radii, strict=True)]
