from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from flexgym.shapes.brief import view
from flexgym.shapes.sampling import draw_caption, draw_clip, draw_scene, draw_spec
from flexgym.shapes.scenes import render, render_video
from flexgym.shapes.verifier import verify
from research.judge.checkpoint import build_image_processor
from research.judge.lessons import patches
from research.judge.wear import RUINS, as_seen, brightened, cropped, h264, jpeg, resized, ruined, worn


def drawn(kind, *, seed=0):
    """A caption and the frames of a sample that satisfies it."""
    rng = np.random.default_rng(seed)
    spec = draw_spec(rng, kind, "training")
    frames = render_video(draw_clip(rng, spec)) if kind == "video" else render(draw_scene(rng, spec))[None]
    return draw_caption(rng, spec), frames


@pytest.mark.parametrize("kind", ["image", "video"])
def test_compression_changes_pixels_a_little(kind):
    _, frames = drawn(kind)
    for after in (jpeg(frames, 60), h264(frames, 23), h264(cropped(frames, (0, 1, 1, 0)), 23)):
        assert after.dtype == np.uint8
        assert len(after) == len(frames)
        original = frames[:, : after.shape[1], 32 - after.shape[2] :]
        error = np.abs(after.astype(float) - original).mean()
        assert 0.1 < error < 8.0
    worse, better = (np.abs(h264(frames, crf).astype(float) - frames).mean() for crf in (36, 18))
    assert worse > better


def test_a_video_at_64_pixels_still_shows_what_it_showed():
    for seed in range(8):
        caption, frames = drawn("video", seed=seed)
        assert verify(caption, as_seen(h264(resized(frames, (64, 64)), 28))).score > 0.7


def test_brightness_and_crops_by_hand():
    frames = np.full((1, 4, 4, 3), 100, np.uint8)
    assert np.unique(brightened(frames, 1.2, 10.0)).tolist() == [130]
    assert np.unique(brightened(frames, 1.2, 200.0)).tolist() == [255]
    assert cropped(frames, (1, 0, 2, 1)).shape == (1, 3, 1, 3)


@pytest.mark.parametrize("kind", ["image", "video"])
def test_wear_follows_from_the_draws_and_gives_any_size(kind):
    _, frames = drawn(kind)
    results = [[worn(np.random.default_rng(seed), frames) for seed in range(60)] for _ in range(2)]
    assert all(np.array_equal(one, other) for one, other in zip(*results, strict=True))
    sides = [each.shape[1] for each in results[0]]
    assert min(sides) < 28
    assert max(sides) > 64
    assert all(each.dtype == np.uint8 and len(each) == len(frames) for each in results[0])
    unchanged = np.mean([each.shape == frames.shape and np.array_equal(each, frames) for each in results[0]])
    assert 0.2 < unchanged < 0.6


@pytest.mark.parametrize("name", RUINS)
def test_nobody_can_read_what_is_ruined(name):
    rng = np.random.default_rng(0)
    for seed in range(8):
        for kind in ("image", "video"):
            caption, frames = drawn(kind, seed=seed)
            after = ruined(rng, frames, [name])
            assert after.shape == frames.shape
            assert not view(caption, after if kind == "video" else after[0]).readable


def test_the_judge_sees_what_its_processor_makes_of_an_image():
    processor, rng = build_image_processor(), np.random.default_rng(0)
    for height, width in ((32, 32), (16, 15), (30, 32), (40, 35), (64, 60), (120, 128), (256, 256)):
        frame = rng.integers(256, size=(1, height, width, 3), dtype=np.uint8)
        made = processor(images=[Image.fromarray(frame[0])], return_tensors="pt")
        assert made["image_grid_thw"].tolist() == [[1, 8, 8]]
        assert torch.allclose(made["pixel_values"], patches(torch.from_numpy(as_seen(frame))), atol=1e-6)
