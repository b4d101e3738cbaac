from __future__ import annotations

import itertools

import numpy as np
import pytest

from flexgym.shapes.captions import parse_caption
from flexgym.shapes.sampling import draw_spec
from flexgym.shapes.splits import CATEGORIES, compositions, split_of
from flexgym.shapes.verifier import verify
from research.judge.candidates import draw_rendered, near_miss, show, still_spec

KINDS = ["image", "video"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_near_miss_breaks_a_demand_and_stays_in_its_split(kind):
    rng = np.random.default_rng(0)
    broken, categories = [], set()
    for _ in range(150):
        spec = draw_spec(rng, kind, "training")
        other = near_miss(rng, spec, splits=("training",))
        categories.add(spec.category)
        assert other != spec
        assert split_of(compositions(other), kind) == "training"
        broken.append(not verify(spec, show(rng, other)).satisfied)
    assert np.mean(broken) > 0.97  # three things may happen to be in line
    assert set(CATEGORIES[kind]) <= categories


@pytest.mark.parametrize("kind", KINDS)
def test_near_misses_of_a_caption_differ_in_many_respects(kind):
    rng = np.random.default_rng(0)
    text = {"image": "a red circle left of a blue square", "video": "a red circle moving left"}[kind]
    spec = parse_caption(text)
    others = [near_miss(rng, spec, splits=("training", "validation", "test")) for _ in range(120)]
    assert len({other.category for other in others}) >= 3
    assert {other.relation for other in others} >= ({"right of"} if kind == "image" else {None})
    assert len(set(others)) > 15


@pytest.mark.parametrize("kind", KINDS)
def test_rendered_candidates_have_a_right_and_a_wrong_one(kind):
    rng = np.random.default_rng(1)
    groups = [
        draw_rendered(rng, draw_spec(rng, kind, "validation"), splits=("validation", "training")) for _ in range(30)
    ]
    whole = np.array([[one.share == 1.0 for one in group.views] for group in groups])
    assert whole.any(1).all()
    assert (~whole).any(1).mean() > 0.95
    assert 0.25 < np.mean([row[0] for row in whole]) < 0.8  # no place is always right
    for group in groups:
        assert split_of(compositions(parse_caption(group.caption)), kind) == "validation"
        assert len(group.samples) == len(group.views) == 3


def test_what_a_frame_of_a_video_should_show():
    spec = parse_caption("a red circle passing a blue square")
    still = next(filter(None, (still_spec(spec, splits=(split,)) for split in ("training", "validation", "test"))))
    assert (still.category, still.nouns, still.motion) == ("binding", spec.nouns, None)
    others = [split for split in ("training", "validation", "test") if still_spec(spec, splits=(split,)) is None]
    assert len(others) == 2
    plain = still_spec(parse_caption("a circle growing"), splits=("training",))
    assert plain is not None
    assert plain.category == "shape"


def test_no_training_scene_shows_a_composition_of_another_split():
    rng = np.random.default_rng(2)
    for kind, _ in itertools.product(KINDS, range(40)):
        group = draw_rendered(rng, draw_spec(rng, kind, "training"), splits=("training",))
        assert split_of(compositions(group.spec), kind) == "training"
        if kind == "image":
            for one, sample in zip(group.views, group.samples, strict=True):
                kinds = one.shown.split(";")[0].split(", ")
                assert sample.shape == (32, 32, 3)
                assert kinds
