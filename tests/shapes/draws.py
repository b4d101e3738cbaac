"""Scenes and videos for captions of every category and split, what spoils them, and what is true of them."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from PIL import Image
from scipy import ndimage

from flexgym.shapes.captions import (
    DIRECTIONS,
    IMAGE_CATEGORIES,
    NUMBERS,
    RELATIONS,
    RESIZES,
    SIMPLE_CATEGORIES,
    SIZES,
    SPEEDS,
    VIDEO_CATEGORIES,
    Noun,
    Spec,
)
from flexgym.shapes.sampling import draw_clip, draw_scene
from flexgym.shapes.scenes import COLORS, FRAMES, OUTLINES, SHAPES, Scene, Thing, render, render_video
from flexgym.shapes.splits import SPLITS, specs

CATEGORIES = {
    **dict.fromkeys((*SIMPLE_CATEGORIES, *IMAGE_CATEGORIES), "image"),
    **dict.fromkeys(VIDEO_CATEGORIES, "video"),
}
"""All categories with their modality."""


@cache
def drawn(category: str, count: int, seed: int = 11) -> tuple[list[Spec], list[Sequence[Scene]], np.ndarray]:
    """Return specs of all splits by turns, their scenes (one for an image), and the pixels."""
    rng, modality = np.random.default_rng(seed), CATEGORIES[category]
    members = [known[category] for split in SPLITS if category in (known := specs(modality, split))]
    chosen = [some[rng.integers(len(some))] for some in itertools.islice(itertools.cycle(members), count)]
    clips = [[draw_scene(rng, spec)] if modality == "image" else draw_clip(rng, spec) for spec in chosen]
    samples = np.stack([render(clip[0]) if modality == "image" else render_video(clip) for clip in clips])
    return chosen, clips, samples


def clean(samples: np.ndarray) -> np.ndarray:
    return samples


def blurred(samples: np.ndarray) -> np.ndarray:
    sigma = (0.0,) * (samples.ndim - 3) + (0.6, 0.6, 0.0)
    return ndimage.gaussian_filter(samples.astype(np.float32), sigma).round().astype(np.uint8)


def noisy(samples: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(2).normal(0, 6, samples.shape)
    return np.clip(samples + noise, 0, 255).round().astype(np.uint8)


def compressed(samples: np.ndarray) -> np.ndarray:
    """Return the samples after JPEG of quality 75, which halves the resolution of colors."""
    result = np.empty_like(samples)
    flat = result.reshape(-1, *samples.shape[-3:])
    for index, image in enumerate(samples.reshape(flat.shape)):
        with io.BytesIO() as file:
            Image.fromarray(image).save(file, "JPEG", quality=75)
            flat[index] = np.asarray(Image.open(file))
    return result


SPOILS = (clean, blurred, noisy, compressed)


def rivals(rng: np.random.Generator, spec: Spec) -> list[Spec]:
    """Return specs that differ from another in one respect, and one other of the category."""
    members = specs(spec.modality, SPLITS[rng.integers(3)]).get(spec.category) or (spec,)
    found = [members[rng.integers(len(members))]]
    for index, noun in enumerate(spec.nouns):
        found += [_with(spec, index, other) for other in _other_nouns(rng, noun, rotating=spec.category == "rotating")]
    found += [replace(spec, nouns=order) for order in itertools.permutations(spec.nouns)]
    if spec.relation in RELATIONS:
        found += [replace(spec, relation=relation) for relation in RELATIONS]
    if spec.absent:
        found.append(replace(spec, nouns=(spec.absent,), absent=spec.nouns[0]))
    for motions in (DIRECTIONS, RESIZES):
        found += [replace(spec, motion=motion) for motion in motions if spec.motion in motions]
    if spec.category == "direction":
        found += [replace(spec, speed=speed) for speed in SPEEDS]
    return [other for other in dict.fromkeys(found) if other != spec]


def _with(spec: Spec, index: int, noun: Noun) -> Spec:
    return replace(spec, nouns=(*spec.nouns[:index], noun, *spec.nouns[index + 1 :]))


def _other_nouns(rng: np.random.Generator, noun: Noun, *, rotating: bool) -> Iterator[Noun]:
    shapes = [shape for shape in SHAPES if shape != noun.shape and (OUTLINES[shape].symmetry or not rotating)]
    yield replace(noun, shape=shapes[rng.integers(len(shapes))])
    if noun.color:
        colors = [color for color in COLORS if color != noun.color]
        yield replace(noun, color=colors[rng.integers(len(colors))])
    if noun.size:
        yield from (replace(noun, size=size) for size in SIZES)
    if noun.count > 1:
        yield from (replace(noun, count=count) for count in NUMBERS.values())


def is_true(spec: Spec, clip: Sequence[Scene]) -> bool:
    """Return True if a spec of the category that scenes were drawn for holds of them, judged from the scenes alone."""
    if spec.modality == "image":
        wanted = [noun for noun in spec.nouns for _ in range(noun.count)]
        orders = itertools.permutations(clip[0]) if spec.category != "counting" else [clip[0]]
        return len(clip[0]) == len(wanted) and any(_holds(spec, wanted, things) for things in orders)
    first, last = clip[0][0], clip[-1][0]
    if not all(map(_fits, spec.nouns, clip[-1])):
        return False
    if spec.motion in DIRECTIONS:
        dx, dy = last.x - first.x, last.y - first.y
        along = {"left": -dx, "right": dx, "up": -dy, "down": dy}[spec.motion]
        return along > 6 and {None: True, "slowly": along < 11, "quickly": along > 17}[spec.speed]
    if spec.motion in RESIZES:
        return (last.radius > first.radius) == (spec.motion == "growing")
    return True


def _fits(noun: Noun, thing: Thing) -> bool:
    size = {None: True, "small": thing.radius < 4.5, "large": thing.radius > 6.8}[noun.size]
    return noun.shape == thing.shape and noun.color in (None, thing.color) and size


def _holds(spec: Spec, wanted: Sequence[Noun], things: Sequence[Thing]) -> bool:
    if not all(map(_fits, wanted, things)):
        return False
    if spec.relation == "between":
        middle, first, last = (np.array([thing.x, thing.y]) for thing in things)
        return bool(np.linalg.norm(2 * middle - first - last) < 0.3 * np.linalg.norm(last - first))
    if spec.relation:
        dx, dy = things[1].x - things[0].x, things[1].y - things[0].y
        return {"left of": dx, "right of": -dx, "above": dy, "below": -dy}[spec.relation] > 3.0
    return spec.absent is None or not any(_fits(spec.absent, thing) for thing in things)


def moving(
    xs: np.ndarray | float,
    ys: np.ndarray | float = 16.0,
    *,
    shape: str = "circle",
    color: str = "red",
    radius: np.ndarray | float = 5.0,
    angle: np.ndarray | float = 0.0,
) -> list[Scene]:
    """Return a video of one thing."""
    columns = np.broadcast_arrays(xs, ys, radius, angle, np.zeros(FRAMES))[:4]
    return [(Thing(shape, color, *map(float, row)),) for row in zip(*columns, strict=True)]
