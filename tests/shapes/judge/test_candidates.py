from __future__ import annotations

import itertools

import numpy as np
import pytest

from flexgym.errors import UnknownNameError
from flexgym.shapes.judge.candidates import draw_candidates, near_miss
from flexgym.shapes.sampling import sample_clip, sample_scene, sample_spec
from flexgym.shapes.scenes import render, render_video
from flexgym.shapes.verifier import verify


@pytest.mark.parametrize("kind", ["image", "video"])
def test_a_near_miss_breaks_a_demand(kind):
    rng = np.random.default_rng(0)
    for number in range(120):
        spec = sample_spec(rng, kind, ("training", "rich")[number % 2])
        other = near_miss(rng, spec)
        sample = render_video(sample_clip(rng, other)) if kind == "video" else render(sample_scene(rng, other))
        assert not verify(spec, sample).satisfied, (spec, other)


@pytest.mark.parametrize("kind", ["image", "video"])
def test_rendered_candidates_are_right_right_near_and_wrong(kind):
    groups = list(itertools.islice(draw_candidates(kind, "rendered", splits=("held_out",), seed=0), 30))
    whole = np.array([[each.share == 1.0 for each in group.views] for group in groups])
    right, second, near, other = whole.mean(0)
    assert (right, second, near) == (1.0, 1.0, 0.0)
    assert other <= 0.1  # a scene of another caption may meet this one, too


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
