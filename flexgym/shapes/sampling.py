"""Sample scenes and videos that satisfy a spec, and prompts balanced over the categories.

Objects are placed on a coarse grid with a little jitter, so that a small model can learn where they go.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from flexgym.shapes.captions import Noun, Spec, phrasings, specs
from flexgym.shapes.scenes import COLORS, FRAMES, SIZE, SYMMETRY, Scene, Thing, render
from flexgym.types import Prompt, SampleGroup

CENTER = SIZE / 2
RADII = {"small": (4.2, 4.8), "large": (7.4, 8.4), "alone": (5.2, 7.0), "pair": (4.6, 5.4), "several": (3.4, 3.7)}
"""Range of radii in pixels, by size word or by the number of objects on the canvas."""
_LANES = (8.0, CENTER, 24.0)
_OUTER_LANES = (5.5, CENTER, 26.5)
PAIR_BOARD = tuple(itertools.product(_LANES, _LANES))
BOARD = tuple(itertools.product(_OUTER_LANES, _OUTER_LANES))


def sample_spec(rng: np.random.Generator, modality: str, split: str = "training", *, only_taught: bool = False) -> Spec:
    """Draw a spec, with equal probability for each category and for each composition in it; see `specs`."""
    by_category = specs(modality, split, only_taught=only_taught)
    members = by_category[list(by_category)[rng.integers(len(by_category))]]
    return members[rng.integers(len(members))]


def sample_caption(rng: np.random.Generator, spec: Spec) -> str:
    """Draw one of the captions that express a spec."""
    choices = phrasings(spec)
    return choices[rng.integers(len(choices))]


def sample_prompts(modality: str, split: str, count: int, *, seed: int) -> list[str]:
    """Draw ``count`` captions, balanced over the categories and reproducible by seed."""
    rng = np.random.default_rng(seed)
    return [sample_caption(rng, sample_spec(rng, modality, split)) for _ in range(count)]


def wrong_spec(rng: np.random.Generator, spec: Spec, *, only_taught: bool = False) -> Spec:
    """Draw another training spec of the same category, for a caption that is wrong in a plausible way."""
    rich = specs(spec.modality, "rich", only_taught=only_taught).get(spec.category, ())
    members = rich if spec in rich else specs(spec.modality, "training", only_taught=only_taught)[spec.category]
    while (other := members[rng.integers(len(members))]) == spec:
        pass
    return other


def sample_group(rng: np.random.Generator, size: int) -> SampleGroup:
    """Draw a caption with ``size`` rendered scenes, about half of them for another caption of its category."""
    spec = sample_spec(rng, "image")
    shown = [spec if rng.random() < 0.5 else wrong_spec(rng, spec) for _ in range(size)]
    return SampleGroup(Prompt(sample_caption(rng, spec)), np.stack([render(sample_scene(rng, each)) for each in shown]))


def _color(rng: np.random.Generator, noun: Noun) -> str:
    return noun.color or list(COLORS)[rng.integers(len(COLORS))]


def _radius(rng: np.random.Generator, spec: Spec, noun: Noun) -> float:
    crowd = {1: "alone", 2: "pair"}.get(spec.total, "several")
    return float(rng.uniform(*RADII[noun.size or crowd]))


def _related(a: tuple[float, float], b: tuple[float, float], relation: str) -> bool:
    dx, dy = b[0] - a[0], b[1] - a[1]
    along = {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[relation]
    return along == max(abs(dx), abs(dy))


def _places(rng: np.random.Generator, spec: Spec) -> list[tuple[float, float]]:
    """Draw positions of the objects: one near the center, two on opposite sides, several anywhere on the grid."""
    if spec.total == 1:
        return [(float(x), float(y)) for x, y in rng.uniform(CENTER - 3.0, CENTER + 3.0, (1, 2))]
    if spec.total == 2:
        pairs = [
            (a, b) for a, b in itertools.permutations(PAIR_BOARD, 2) if max(abs(a[0] - b[0]), abs(a[1] - b[1])) > 8
        ]
        if spec.relation:
            pairs = [(a, b) for a, b in pairs if _related(a, b, spec.relation)]
        cells: tuple[tuple[float, float], ...] = pairs[rng.integers(len(pairs))]
    else:
        cells = tuple(BOARD[index] for index in rng.permutation(len(BOARD))[: spec.total])
    return [(x + float(rng.uniform(-0.3, 0.3)), y + float(rng.uniform(-0.3, 0.3))) for x, y in cells]


def _placed(noun: Noun, color: str, place: tuple[float, float], *, radius: float) -> Thing:
    """Place an object so that its outline is centered; a triangle's centroid is below the middle of its height."""
    drop = 0.39 * radius if noun.shape == "triangle" else 0.0
    return Thing(noun.shape, color, place[0], place[1] + drop, radius)


def sample_scene(rng: np.random.Generator, spec: Spec) -> Scene:
    """Draw a scene that satisfies an image spec."""
    nouns = [noun for noun in spec.nouns for _ in range(noun.count)]
    colors = [_color(rng, noun) for noun in spec.nouns for _ in range(noun.count)]
    if spec.category == "counting":
        colors = colors[:1] * len(colors)
    things = zip(nouns, colors, _places(rng, spec), strict=True)
    return tuple(_placed(noun, color, place, radius=_radius(rng, spec, noun)) for noun, color, place in things)


def _track(
    x: np.ndarray, y: np.ndarray, noun: Noun, *, radius: np.ndarray | float, angle: np.ndarray | float = 0.0
) -> list[Thing]:
    columns = np.broadcast_arrays(x, y, radius, angle)
    assert noun.color
    return [Thing(noun.shape, noun.color, *(float(value) for value in row)) for row in zip(*columns, strict=True)]


def sample_clip(rng: np.random.Generator, spec: Spec) -> list[Scene]:
    """Draw a video of `FRAMES` scenes that satisfies a video spec."""
    spec = replace(spec, nouns=tuple(replace(noun, color=_color(rng, noun)) for noun in spec.nouns))
    if spec.category in ("passing", "order"):
        return _clip_of_two(rng, spec)
    time, jitter = np.linspace(0.0, 1.0, FRAMES), rng.uniform(-1.0, 1.0, 3)
    noun, still = spec.nouns[0], np.zeros(FRAMES)
    radius = float(rng.uniform(*RADII["pair"]))
    lane = _LANES[rng.integers(3)] + jitter[0] + still
    if spec.category == "direction":
        start, stop = 8.0 + jitter[1], 24.0 + jitter[2]
        sweep = start + (stop - start) * (time if spec.motion in ("right", "down") else 1.0 - time)
        x, y = (sweep, lane) if spec.motion in ("left", "right") else (lane, sweep)
        return [(thing,) for thing in _track(x, y, noun, radius=radius)]
    if spec.category == "bouncing":
        high, low = 8.0 + jitter[1], 24.0 + jitter[2]
        heights = low - (low - high) * (2.0 * time - 1.0) ** 2
        return [(thing,) for thing in _track(lane, heights, noun, radius=radius)]
    x, y = CENTER + jitter[1] + still, CENTER + jitter[2] + still
    if spec.category == "growing":
        small, large = rng.uniform(3.6, 4.2), rng.uniform(7.2, 8.2)
        share = time if spec.motion == "growing" else 1.0 - time
        return [(thing,) for thing in _track(x, y, noun, radius=small + (large - small) * share)]
    turn = rng.choice([-1.0, 1.0]) * 0.8 * 360.0 / SYMMETRY[noun.shape]
    radius = float(rng.uniform(6.6, 7.4))
    return [(thing,) for thing in _track(x, y, noun, radius=radius, angle=turn * time)]


def _clip_of_two(rng: np.random.Generator, spec: Spec) -> list[Scene]:
    if spec.category == "order":
        scene = sample_scene(rng, Spec("attribution", spec.nouns))
        return [scene[:1] if frame < 5 else scene for frame in range(FRAMES)]
    first, second = spec.nouns
    time, still, jitter = np.linspace(0.0, 1.0, FRAMES), np.zeros(FRAMES), rng.uniform(-0.8, 0.8, 3)
    lane, other = (8.0, 24.0) if rng.random() < 0.5 else (24.0, 8.0)
    sweep = 7.0 + (SIZE - 14.0) * (time if rng.random() < 0.5 else 1.0 - time)
    radii = rng.uniform(4.6, 5.2, 2)
    moving = _track(sweep, lane + jitter[0] + still, first, radius=radii[0])
    standing = _track(CENTER + jitter[1] + still, other + jitter[2] + still, second, radius=radii[1])
    return list(zip(moving, standing, strict=True))
