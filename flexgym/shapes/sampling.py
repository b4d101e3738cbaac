"""Drawing scenes and clips that satisfy a spec, and prompts balanced over the categories."""

from __future__ import annotations

import numpy as np

from flexgym.shapes.captions import Noun, Spec, phrasings, specs
from flexgym.shapes.scenes import COLOURS, FRAMES, SIZE, SYMMETRY, Scene, Thing

RADII = {"small": (3.6, 4.6), "large": (7.4, 9.0)}
GAP = 3.0
"""Least number of background pixels between two things."""


def sample_spec(rng: np.random.Generator, kind: str, split: str = "training") -> Spec:
    """A spec drawn with equal weight for each category, then for each composition in it."""
    by_category = specs(kind, split)
    members = by_category[list(by_category)[rng.integers(len(by_category))]]
    return members[rng.integers(len(members))]


def sample_caption(rng: np.random.Generator, spec: Spec) -> str:
    """One of the captions that say a spec."""
    choices = phrasings(spec)
    return choices[rng.integers(len(choices))]


def sample_prompts(kind: str, split: str, count: int, *, seed: int) -> list[str]:
    """``count`` captions, balanced over the categories, the same for the same seed."""
    rng = np.random.default_rng(seed)
    return [sample_caption(rng, sample_spec(rng, kind, split)) for _ in range(count)]


def wrong_spec(rng: np.random.Generator, spec: Spec) -> Spec:
    """Another training spec of the same category: a caption that is wrong as real captions are wrong."""
    members = specs(spec.kind, "training")[spec.category]
    others = [other for other in members if other != spec]
    return others[rng.integers(len(others))]


def _colour(rng: np.random.Generator, noun: Noun) -> str:
    return noun.colour or list(COLOURS)[rng.integers(len(COLOURS))]


def _radius(rng: np.random.Generator, spec: Spec, noun: Noun) -> float:
    if noun.size:
        low, high = RADII[noun.size]
    elif spec.total == 1:
        low, high = 4.2, 8.0
    elif spec.total == 2:
        low, high = 4.2, 6.0
    else:
        low, high = 3.6, 4.4
    return float(rng.uniform(low, high))


def _reach(shape: str, radius: float) -> float:
    return radius * {"circle": 1.0, "square": 0.95, "triangle": 1.4, "cross": 1.16}[shape]


def _apart(a: Thing, b: Thing) -> bool:
    distance = max(abs(a.x - b.x), abs(a.y - b.y))
    return distance >= _reach(a.shape, a.radius) + _reach(b.shape, b.radius) + GAP - 2.0


def _holds_relation(things: Scene, relation: str) -> bool:
    dx, dy = things[1].x - things[0].x, things[1].y - things[0].y
    along = {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[relation]
    across = abs(dy) if relation in ("left of", "right of") else abs(dx)
    return along >= 8.0 and along >= across


def _place(rng: np.random.Generator, noun: Noun, radius: float) -> Thing:
    margin = min(_reach(noun.shape, radius) + 1.0, SIZE / 2)
    x, y = rng.uniform(margin, SIZE - margin, 2)
    return Thing(noun.shape, _colour(rng, noun), float(x), float(y), radius)


def _attempt(rng: np.random.Generator, spec: Spec, nouns: list[Noun]) -> list[Thing]:
    """As many things as find room one after the other; fewer than asked when the canvas fills up badly."""
    things: list[Thing] = []
    for noun in nouns:
        radius = _radius(rng, spec, noun)
        candidates = (_place(rng, noun, radius) for _ in range(8))
        free = next((thing for thing in candidates if all(_apart(thing, other) for other in things)), None)
        if free is None:
            return things
        things.append(free)
    return things


def sample_scene(rng: np.random.Generator, spec: Spec) -> Scene:
    """A scene that satisfies a spec for images, by rejection."""
    nouns = [noun for noun in spec.nouns for _ in range(noun.count)]
    if spec.category == "counting":
        nouns = [Noun(noun.shape, _colour(rng, noun)) for noun in nouns[:1]] * len(nouns)
    while True:
        things = tuple(_attempt(rng, spec, nouns))
        if len(things) == len(nouns) and (spec.relation is None or _holds_relation(things, spec.relation)):
            return things


def _track(
    x: np.ndarray, y: np.ndarray, noun: Noun, radius: np.ndarray | float, angle: np.ndarray | float = 0.0
) -> list[Thing]:
    columns = np.broadcast_arrays(x, y, radius, angle)
    assert noun.colour
    return [Thing(noun.shape, noun.colour, *(float(value) for value in row)) for row in zip(*columns, strict=True)]


def sample_clip(rng: np.random.Generator, spec: Spec) -> list[Scene]:
    """A clip of `FRAMES` scenes that satisfies a spec for videos."""
    if spec.category in ("passing", "order"):
        return _clip_of_two(rng, spec)
    time = np.linspace(0.0, 1.0, FRAMES)
    noun, still = spec.nouns[0], np.zeros(FRAMES)
    radius = float(rng.uniform(4.4, 6.0))
    x, y = rng.uniform(9.0, SIZE - 9.0, 2)
    if spec.category == "direction":
        start, stop = rng.uniform(7.5, 10.0), rng.uniform(SIZE - 10.0, SIZE - 7.5)
        sweep = start + (stop - start) * (time if spec.motion in ("right", "down") else 1.0 - time)
        along_x = spec.motion in ("left", "right")
        return [
            (thing,) for thing in _track(sweep if along_x else x + still, y + still if along_x else sweep, noun, radius)
        ]
    if spec.category == "bouncing":
        high, low = rng.uniform(7.0, 9.5), rng.uniform(SIZE - 9.5, SIZE - 7.5)
        return [(thing,) for thing in _track(x + still, low - (low - high) * (2.0 * time - 1.0) ** 2, noun, radius)]
    x, y = rng.uniform(12.0, SIZE - 12.0, 2)
    if spec.category == "growing":
        small, large = rng.uniform(3.4, 4.4), rng.uniform(7.0, 8.4)
        share = time if spec.motion == "growing" else 1.0 - time
        return [(thing,) for thing in _track(x + still, y + still, noun, small + (large - small) * share)]
    turn = rng.choice([-1.0, 1.0]) * 0.8 * 360.0 / SYMMETRY[noun.shape]
    return [(thing,) for thing in _track(x + still, y + still, noun, float(rng.uniform(6.2, 7.6)), turn * time)]


def _clip_of_two(rng: np.random.Generator, spec: Spec) -> list[Scene]:
    first, second = spec.nouns
    time, still = np.linspace(0.0, 1.0, FRAMES), np.zeros(FRAMES)
    if spec.category == "passing":
        lane, other = (8.0, SIZE - 9.0) if rng.random() < 0.5 else (SIZE - 8.0, 9.0)
        sweep = 6.5 + (SIZE - 13.0) * (time if rng.random() < 0.5 else 1.0 - time)
        radii = rng.uniform(4.0, 5.0, 2)
        moving = _track(sweep, lane + still, first, radii[0])
        standing = _track(rng.uniform(12.0, SIZE - 12.0) + still, other + still, second, radii[1])
        return list(zip(moving, standing, strict=True))
    scene = sample_scene(rng, Spec("attribution", spec.nouns))
    appears = int(rng.integers(4, 6))
    return [scene[:1] if frame < appears else scene for frame in range(FRAMES)]
