from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from flexgym.shapes.captions import parse_caption, phrasings, specs
from flexgym.shapes.sampling import RADII, sample_clip, sample_prompts, sample_scene, sample_spec, wrong_spec
from flexgym.shapes.scenes import FRAMES, SIZE, thing_mask

SPLITS = [(kind, split) for kind in ("image", "video") for split in ("training", "rich", "held_out")]
RELATIONS = {
    "left of": lambda a, b: b.x - a.x,
    "right of": lambda a, b: a.x - b.x,
    "above": lambda a, b: b.y - a.y,
    "below": lambda a, b: a.y - b.y,
}


def drawn(kind, category):
    """Specs of a category from every split with the generator to draw them by."""
    rng = np.random.default_rng(7)
    for split in ("training", "rich", "held_out"):
        members = specs(kind, split).get(category, ())
        for _ in range(min(10, len(members))):
            yield rng, members[rng.integers(len(members))]


def assert_clear(scene):
    """Next to nothing of a thing lies off the canvas, and no pixel belongs to two."""
    masks = [thing_mask(thing) for thing in scene]
    for thing, mask in zip(scene, masks, strict=True):
        assert mask.sum() > 0.96 * thing_mask(replace(thing, x=SIZE / 2, y=SIZE / 2)).sum()
    assert sum(mask > 0.5 for mask in masks).max() == 1


@pytest.mark.parametrize("category", specs("image", "training"))
def test_scenes_satisfy_their_specs(category):
    for rng, spec in drawn("image", category):
        scene = sample_scene(rng, spec)
        assert_clear(scene)
        wanted = [noun for noun in spec.nouns for _ in range(noun.count)]
        for noun, thing in zip(wanted, scene, strict=True):
            assert thing.shape == noun.shape
            assert noun.color in (None, thing.color)
            if noun.size:
                assert RADII[noun.size][0] <= thing.radius <= RADII[noun.size][1]
        if spec.relation:
            assert RELATIONS[spec.relation](*scene) > 7.0
        if category == "counting":
            assert len({thing.color for thing in scene}) == 1


def path(clip, name, index=0):
    return np.array([getattr(scene[index], name) for scene in clip])


@pytest.mark.parametrize("category", specs("video", "training"))
def test_clips_satisfy_their_specs(category):
    for rng, spec in drawn("video", category):
        clip = sample_clip(rng, spec)
        assert len(clip) == FRAMES
        for scene in clip:
            assert_clear(scene)
            for noun, thing in zip(spec.nouns, scene, strict=False):
                assert thing.shape == noun.shape
                assert noun.color in (None, thing.color)
        numbers = [len(scene) for scene in clip]
        if category == "order":
            assert (numbers[0], numbers[-1]) == (1, 2)
        else:
            assert set(numbers) == {len(spec.nouns)}
            assert_moves(spec, clip)


def assert_moves(spec, clip):
    x, y, radius, angle = (path(clip, name) for name in ("x", "y", "radius", "angle"))
    moved = {"right": x[-1] - x[0], "left": x[0] - x[-1], "down": y[-1] - y[0], "up": y[0] - y[-1]}
    if spec.category == "direction":
        assert moved[spec.motion] > SIZE / 3
        assert np.ptp(y if spec.motion in ("left", "right") else x) == 0
    elif spec.category == "bouncing":
        assert y.argmax() not in (0, FRAMES - 1)
        assert y.max() - max(y[0], y[-1]) > SIZE / 4
    elif spec.category == "growing":
        steps = np.diff(radius)
        assert (steps > 0).all() if spec.motion == "growing" else (steps < 0).all()
    elif spec.category == "rotating":
        assert np.ptp(angle) > 60
    else:
        other = path(clip, "x", 1)
        assert np.ptp(other) == 0
        assert (x[0] - other[0]) * (x[-1] - other[-1]) < 0


def test_things_that_are_drawn_differ():
    rng = np.random.default_rng(0)
    spec = parse_caption("two circles")
    scenes = [sample_scene(rng, spec) for _ in range(60)]
    assert {scene[0].color for scene in scenes} == {"red", "green", "blue", "yellow"}
    assert len(set(scenes)) == 60


def test_scenes_and_clips_are_reproducible():
    for kind, draw in (("image", sample_scene), ("video", sample_clip)):
        first, again, other = (np.random.default_rng(seed) for seed in (3, 3, 4))
        drawn_scenes = [[draw(rng, sample_spec(rng, kind)) for _ in range(5)] for rng in (first, again, other)]
        assert drawn_scenes[0] == drawn_scenes[1] != drawn_scenes[2]


@pytest.mark.parametrize(("kind", "split"), SPLITS)
def test_prompts_are_balanced_and_reproducible(kind, split):
    prompts = sample_prompts(kind, split, 1200, seed=5)
    assert prompts == sample_prompts(kind, split, 1200, seed=5)
    assert prompts != sample_prompts(kind, split, 1200, seed=6)
    every = {text for members in specs(kind, split).values() for spec in members for text in phrasings(spec)}
    assert set(prompts) <= every
    counts = Counter(parse_caption(prompt).category for prompt in prompts)
    assert set(counts) == set(specs(kind, split))
    # Each category has its share on average; 60 are more than four standard deviations.
    assert all(abs(count - 1200 / len(counts)) < 60 for count in counts.values()), counts


@pytest.mark.parametrize(("kind", "split"), SPLITS)
def test_wrong_specs_are_other_training_specs_of_the_category(kind, split):
    rng = np.random.default_rng(0)
    for _ in range(100):
        spec = sample_spec(rng, kind, split)
        wrong = wrong_spec(rng, spec)
        assert wrong != spec
        assert wrong in specs(kind, "rich" if split == "rich" else "training")[spec.category]
