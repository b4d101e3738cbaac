from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from flexgym.shapes.captions import IMAGE_CATEGORIES, SIMPLE_CATEGORIES, VIDEO_CATEGORIES, parse_caption, phrasings
from flexgym.shapes.sampling import (
    RADII,
    REACH,
    draw_caption,
    draw_clip,
    draw_group,
    draw_scene,
    draw_spec,
    with_colors,
    wrong_spec,
)
from flexgym.shapes.scenes import COLORS, FRAMES, SIZE, thing_mask
from flexgym.shapes.splits import SPLITS, specs
from flexgym.shapes.verifier import shares_met

RELATIONS = {
    "left of": lambda a, b: b.x - a.x,
    "right of": lambda a, b: a.x - b.x,
    "above": lambda a, b: b.y - a.y,
    "below": lambda a, b: a.y - b.y,
}


def drawn(modality, category):
    """Yield specs of a category from every split with the generator to draw them by."""
    rng = np.random.default_rng(7)
    for split in SPLITS:
        members = specs(modality, split).get(category, ())
        for _ in range(min(10, len(members))):
            yield rng, members[rng.integers(len(members))]


def assert_clear(scene, least=0.96):
    """Assert that next to nothing of a thing lies off the canvas, and that no pixel belongs to two."""
    masks = [thing_mask(thing) for thing in scene]
    for thing, mask in zip(scene, masks, strict=True):
        assert mask.sum() > least * thing_mask(replace(thing, x=SIZE / 2, y=SIZE / 2)).sum()
    assert sum(mask > 0.5 for mask in masks).max() == 1


@pytest.mark.parametrize("category", [*SIMPLE_CATEGORIES, *IMAGE_CATEGORIES])
def test_scenes_satisfy_their_specs(category):
    for rng, spec in drawn("image", category):
        scene = draw_scene(rng, spec)
        assert_clear(scene)
        wanted = [noun for noun in spec.nouns for _ in range(noun.count)]
        for noun, thing in zip(wanted, scene, strict=True):
            assert thing.shape == noun.shape
            assert noun.color in (None, thing.color)
            if len(scene) == 1:
                assert RADII[noun.size or "medium"][0] <= thing.radius <= RADII[noun.size or "medium"][1]
        if category == "position":
            assert RELATIONS[spec.relation](*scene) > 5.0
        if category == "between":
            middle, first, last = (np.array([thing.x, thing.y]) for thing in scene)
            assert np.abs(middle - (first + last) / 2).max() < 1.5
        if category == "counting":
            assert len({thing.color for thing in scene}) == 1


def path(clip, name, index=0):
    return np.array([getattr(scene[index], name) for scene in clip])


@pytest.mark.parametrize("category", VIDEO_CATEGORIES)
def test_clips_satisfy_their_specs(category):
    for rng, spec in drawn("video", category):
        clip = draw_clip(rng, spec)
        assert len(clip) == FRAMES
        for scene in clip:
            # A bar that moves quickly begins and ends with its tip off the canvas.
            assert_clear(scene, 0.83 if spec.speed == "quickly" else 0.96)
            for noun, thing in zip(spec.nouns, scene, strict=False):
                assert thing.shape == noun.shape
                assert noun.color in (None, thing.color)
        numbers = [len(scene) for scene in clip]
        if category == "order":
            assert (numbers[0], numbers[1], numbers[-1]) == (1, 1, 2)
        else:
            assert set(numbers) == {len(spec.nouns)}
            assert_moves(spec, clip)


def assert_moves(spec, clip):
    x, y, radius, angle = (path(clip, name) for name in ("x", "y", "radius", "angle"))
    moved = {"right": x[-1] - x[0], "left": x[0] - x[-1], "down": y[-1] - y[0], "up": y[0] - y[-1]}
    if spec.category in ("direction", "standing"):
        assert REACH[spec.speed][0] - 1e-6 <= moved[spec.motion] <= REACH[spec.speed][1] + 1e-6
        assert np.ptp(y if spec.motion in ("left", "right") else x) == 0
    elif spec.category == "bouncing":
        assert y.argmax() not in (0, FRAMES - 1)
        assert y.max() - max(y[0], y[-1]) > SIZE / 4
    elif spec.category == "growing":
        steps = np.diff(radius)
        assert (steps > 0).all() if spec.motion == "growing" else (steps < 0).all()
    elif spec.category == "rotating":
        assert np.ptp(angle) > 60
    if spec.category in ("passing", "standing"):
        assert np.ptp(path(clip, "x", 1)) == np.ptp(path(clip, "y", 1)) == 0
        crosses = (x[0] - path(clip, "x", 1)[0]) * (x[-1] - path(clip, "x", 1)[0]) < 0
        assert crosses or spec.category == "standing"


def test_things_that_are_drawn_differ():
    rng = np.random.default_rng(0)
    spec = parse_caption("two circles")
    scenes = [draw_scene(rng, spec) for _ in range(60)]
    assert {scene[0].color for scene in scenes} <= set(COLORS)
    assert len(set(scenes)) == 60


def test_colors_that_are_named_are_kept_and_others_are_drawn():
    rng = np.random.default_rng(0)
    named = parse_caption("a red circle and a blue square")
    assert with_colors(rng, named) == named
    colors = {with_colors(rng, parse_caption("a circle")).nouns[0].color for _ in range(100)}
    assert colors == set(COLORS)


def test_specs_and_captions_are_drawn_from_the_split():
    rng = np.random.default_rng(0)
    for modality in ("image", "video"):
        for split in SPLITS:
            chosen = [draw_spec(rng, modality, split) for _ in range(200)]
            assert {spec.category for spec in chosen} == set(specs(modality, split))
            assert all(spec in specs(modality, split)[spec.category] for spec in chosen[:20])
            assert all(draw_caption(rng, spec) in phrasings(spec) for spec in chosen)


def test_scenes_and_clips_are_reproducible():
    for modality, draw in (("image", draw_scene), ("video", draw_clip)):
        first, again, other = (np.random.default_rng(seed) for seed in (3, 3, 4))
        scenes = [[draw(rng, draw_spec(rng, modality, "training")) for _ in range(5)] for rng in (first, again, other)]
        assert scenes[0] == scenes[1] != scenes[2]


@pytest.mark.parametrize("modality", ["image", "video"])
def test_another_spec_of_the_category_belongs_to_training(modality):
    rng = np.random.default_rng(0)
    for split in SPLITS:
        spec = draw_spec(rng, modality, split)
        other = wrong_spec(rng, spec)
        assert other != spec
        assert other in specs(modality, "training")[spec.category]


def test_a_group_shows_its_caption_in_about_half_of_the_samples():
    rng = np.random.default_rng(0)
    groups = [draw_group(rng, 6) for _ in range(20)]
    shares = [shares_met([group.prompt.text] * 6, group.samples) for group in groups]
    assert 0.35 < np.mean([share == 1.0 for share in shares]) < 0.75
    assert groups[0].samples.shape == (6, SIZE, SIZE, 3)
