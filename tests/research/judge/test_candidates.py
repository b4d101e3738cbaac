from __future__ import annotations

import itertools

import numpy as np
import pytest

from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.shapes.captions import parse_caption
from flexgym.shapes.sampling import draw_clip, draw_scene, draw_spec
from flexgym.shapes.scenes import render, render_video
from flexgym.shapes.splits import compositions, split_of
from flexgym.shapes.verifier import verify
from research.judge.candidates import draw_candidates, near_miss, stills


@pytest.mark.parametrize("kind", ["image", "video"])
def test_a_near_miss_breaks_a_demand(kind):
    rng = np.random.default_rng(0)
    for _ in range(120):
        spec = draw_spec(rng, kind, "training")
        other = near_miss(rng, spec)
        sample = render_video(draw_clip(rng, other)) if kind == "video" else render(draw_scene(rng, other))
        assert not verify(spec, sample).satisfied, (spec, other)


@pytest.mark.parametrize("kind", ["image", "video"])
def test_rendered_candidates_are_right_right_near_and_wrong(kind):
    groups = list(itertools.islice(draw_candidates(kind, "rendered", splits=("validation",), seed=0), 30))
    whole = np.array([[each.share == 1.0 for each in group.views] for group in groups])
    right, second, near, other = whole.mean(0)
    assert (right, second, near) == (1.0, 1.0, 0.0)
    assert other <= 0.1  # a scene of another caption may meet this one, too


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["image", "video"])
def test_generated_candidates_are_of_both_sorts_and_repeat(kind):
    draws = [itertools.islice(draw_candidates(kind, "generated", splits=("training",), seed=3), 8) for _ in range(2)]
    one, other = (list(draw) for draw in draws)
    whole = [each.share == 1.0 for group in one for each in group.views]
    assert 0.1 < np.mean(whole) < 0.9
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(one, other, strict=True))


def test_captions_of_one_category():
    groups = draw_candidates("video", "rendered", splits=("training",), seed=0, category="rotating")
    assert {group.category for group in itertools.islice(groups, 12)} == {"rotating"}
    with pytest.raises(UnknownNameError, match="rotating"):
        next(draw_candidates("video", "rendered", splits=("training",), seed=0, category="rotation"))


def test_an_unknown_source_names_the_nearest():
    with pytest.raises(UnknownNameError, match="generated"):
        next(draw_candidates("image", "generate", splits=("training",), seed=0))


def test_frames_are_candidates_of_an_image_of_what_the_videos_show():
    videos = list(itertools.islice(draw_candidates("video", "rendered", splits=("training",), seed=0), 60))
    for video, group in zip(videos, stills(videos, seed=0), strict=True):
        wanted = parse_caption(group.caption)
        assert split_of(compositions(wanted), "video") == "training"
        assert wanted.nouns == parse_caption(video.caption).nouns
        assert group.samples.shape == (8, 32, 32, 3)
        assert group.category == wanted.category
        for number, (frame, seen) in enumerate(zip(group.samples, group.views, strict=True)):
            assert any(np.array_equal(frame, each) for each in video.samples[number // 2])
            assert (seen.share == 1.0) == verify(group.caption, frame).satisfied


@pytest.mark.slow
def test_frames_of_generated_videos_repeat_and_are_no_videos():
    draws = [itertools.islice(draw_candidates("image", "frames", splits=("training",), seed=3), 4) for _ in range(2)]
    for one, other in zip(*draws, strict=True):
        assert np.array_equal(one.samples, other.samples)
        assert one.caption == other.caption
    with pytest.raises(ConfigError, match="kind 'image'"):
        next(draw_candidates("video", "frames", splits=("training",), seed=0))
