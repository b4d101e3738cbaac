"""The vision tower of the judge learns what each patch shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flexgym.shapes.scenes import BACKGROUND, COLORS, SHAPES, Thing, render
from research.judge.checkpoint import build_judge
from research.judge.lessons import patches
from research.judge.seeing import Seer, SightLessons, _by_token, labels, loss_of_sights, share_seen
from research.judge.training import Training

SCENE = (Thing("circle", "red", x=8.0, y=8.0, radius=4.0), Thing("bar", "black", x=22.0, y=26.0, radius=4.0))


def kind(thing):
    return 1 + SHAPES.index(thing.shape) * len(COLORS) + list(COLORS).index(thing.color)


def test_labels_say_what_covers_each_patch_and_where_its_center_lies():
    kinds, measures = labels(SCENE)
    assert set(kinds.flatten()) == {0, *map(kind, SCENE)}
    assert (kinds[1:3, 1:3] == kind(SCENE[0])).all()
    assert kinds[6, 5] == kind(SCENE[1])
    np.testing.assert_allclose(measures[1, 2], [1.0, (8 - 10) / 4, (8 - 6) / 4])
    assert (measures[kinds == 0] == 0).all()
    nothing, _ = labels(())
    assert not nothing.any()


def test_labels_are_in_the_order_of_the_tokens():
    """Patches, as the tower gets them, have the color of their label."""
    scene = (
        Thing("square", "red", 8.0, 8.0, radius=4.0 / 0.89),
        Thing("square", "black", 24.0, 20.0, radius=4.0 / 0.89),
    )
    kinds = _by_token(labels(scene)[0][None])
    pixels = patches(torch.from_numpy(render(scene))[None]).view(16, 4, 3, 2, 4, 4)[:, :, :, 0].add(1.0).mul(127.5)
    for number, color in [(kind(thing), COLORS[thing.color]) for thing in scene] + [(0, (BACKGROUND,) * 3)]:
        distance = pixels[kinds == number] - torch.tensor(color)[:, None, None]
        assert distance.abs().max() <= 1
    assert (kinds > 0).sum() == 8


def test_lessons_follow_from_the_seed_and_the_step():
    one, other = (SightLessons(seed=0)[3] for _ in range(2))
    assert all(torch.equal(first, second) for first, second in zip(one, other, strict=True))
    assert not torch.equal(SightLessons(seed=1)[3].frames, one.frames)
    assert one.frames.shape == (128, 32, 32, 3)
    assert one.kinds.shape == (128 * 16, 4)
    assert one.measures.shape == (128 * 16, 4, 3)


def test_a_tower_learns_to_see(monkeypatch):
    monkeypatch.setattr("research.judge.seeing._BATCH", 16)
    torch.manual_seed(0)
    seer = Seer(build_judge(width=64, layers=1)[0].model.visual)
    held_out = SightLessons(seed=1)[0]
    before = float(loss_of_sights(seer, held_out).detach())
    training = Training(seer, 40, loss_of_sights, learning_rate=4e-3)
    training.run(SightLessons(seed=0), 40, workers=0, watch=lambda training: None)
    assert float(loss_of_sights(seer, held_out).detach()) < 0.5 * before
    assert share_seen(seer, held_out) == pytest.approx(_share_by_hand(seer, held_out))


def _share_by_hand(seer, sights):
    said = seer(sights.frames)[..., :-3].argmax(-1)
    pairs = [(a, b) for a, b in zip(said.flatten().tolist(), sights.kinds.flatten().tolist(), strict=True) if b]
    return np.mean([a == b for a, b in pairs])
