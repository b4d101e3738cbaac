"""The differentiable reward of the small world: right scenes score above wrong ones, and gradients go uphill."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flexgym import rewards
from flexgym.core.errors import ConfigError
from flexgym.rewards.shapes_match import _maps, _overlap
from flexgym.shapes.captions import parse_caption
from flexgym.shapes.sampling import sample_prompts, sample_scene, wrong_spec
from flexgym.shapes.scenes import Thing, render
from flexgym.types import Prompt, SampleGroup

CIRCLE, SQUARE = Thing("circle", "red", 8.5, 16.5, 4.6), Thing("square", "blue", 22.5, 15.5, 4.6)


def pixels_of(*scenes):
    return torch.from_numpy(np.stack([render(scene) for scene in scenes])).movedim(-1, 1) / 255.0


def scores(text, *scenes):
    return rewards.make("ShapesMatch").gradient_scores(pixels_of(*scenes), [Prompt(text)] * len(scenes)).tolist()


def test_everything_that_a_caption_says_counts():
    right, *wrong = scores(
        "a red circle left of a blue square",
        (CIRCLE, SQUARE),
        (Thing("circle", "red", 22.5, 15.5, 4.6), Thing("square", "blue", 8.5, 16.5, 4.6)),  # exchanged
        (CIRCLE,),
        (CIRCLE, SQUARE, Thing("triangle", "green", 16, 27, 3.8)),
        (Thing("square", "red", 8.5, 16.5, 4.6), SQUARE),
        (Thing("circle", "green", 8.5, 16.5, 4.6), SQUARE),
    )
    assert right > 0.5
    assert max(wrong) < 0.8 * right


def test_sizes_and_numbers_count():
    large, small = (Thing("circle", "red", 16.5, 16.5, radius) for radius in (8.0, 4.0))
    first, second = scores("a large red circle", (large,), (small,))
    assert first > 1.5 * second
    things = [Thing("cross", "blue", x, 16.5, 3.8) for x in (6.5, 16.5, 26.5)]
    two, three = scores("three blue crosses", things[:2], things)
    assert three > 1.3 * two
    three, two = scores("two blue crosses", things, things[:2])
    assert two > 1.3 * three


def test_right_scenes_score_above_wrong_ones():
    rng, reward, right = np.random.default_rng(3), rewards.make("ShapesMatch"), []
    for text in sample_prompts("image", "held_out", 40, seed=2):
        spec = parse_caption(text)
        images = np.stack([render(sample_scene(rng, each)) for each in (spec, wrong_spec(rng, spec))])
        good, bad = reward.score([SampleGroup(Prompt(text), images)])[0].rewards
        right.append(good > bad)
    assert np.mean(right) > 0.9


def test_overlaps_of_all_places_are_those_of_each():
    planes = torch.rand(2, 32, 32)
    maps = _maps(planes)
    for y, x in ((5, 9), (31, 0)):
        torch.testing.assert_close(maps[1, :, :, y, x], _overlap(planes[1], y, x), rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_small_differences():
    scene = (Thing("circle", "red", 9.3, 16.2, 5.0), Thing("triangle", "green", 22.2, 15.3, 4.2))
    pixels = (0.9 * pixels_of(scene) + 0.05).requires_grad_()
    reward, prompts = rewards.make("ShapesMatch"), [Prompt("a red square and a green triangle")]
    (gradient,) = torch.autograd.grad(reward.gradient_scores(pixels, prompts).sum(), pixels)
    direction = gradient / gradient.norm()
    with torch.no_grad():
        after, before = (reward.gradient_scores(pixels + h * direction, prompts).item() for h in (0.002, -0.002))
    assert (after - before) / 0.004 == pytest.approx(gradient.norm().item(), rel=0.05)


def test_other_samples_are_refused():
    reward = rewards.make("ShapesMatch")
    with pytest.raises(ConfigError, match=r"\[B, 3, 32, 32\], got \[1, 3, 9, 32, 32\]"):
        reward.gradient_scores(torch.zeros(1, 3, 9, 32, 32), [Prompt("a red circle")])
    with pytest.raises(ValueError, match="32x32 pixels"):
        reward.score_samples(Prompt("a red circle"), np.zeros((1, 16, 16, 3), np.uint8))
