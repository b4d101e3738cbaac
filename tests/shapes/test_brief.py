from __future__ import annotations

import json

import numpy as np
import pytest

from flexgym.judge import parse_assessment
from flexgym.judge.assessment import Assessment
from flexgym.shapes.brief import brief_assessment, view
from flexgym.shapes.captions import IMAGE_CATEGORIES, VIDEO_CATEGORIES, parse_caption
from flexgym.shapes.sampling import sample_caption, sample_clip, sample_scene, sample_spec, wrong_spec
from flexgym.shapes.scenes import Thing, render, render_video

CRITERIA = {
    "object": "size",
    "two_objects": "both",
    "counting": "count",
    "colours": "colour",
    "position": "place",
    "attribution": "colour",
    **dict.fromkeys(VIDEO_CATEGORIES, "motion"),
    "order": "order",
}


def drawn(spec, rng):
    return render_video(sample_clip(rng, spec)) if spec.motion else render(sample_scene(rng, spec))


def pairs(count, kind):
    rng = np.random.default_rng(0)
    for number in range(count):
        spec = sample_spec(rng, kind, ("training", "rich")[number % 2])
        caption = sample_caption(rng, spec)
        others = [drawn(wrong_spec(rng, spec), rng) for _ in range(2)]
        yield caption, [view(caption, sample) for sample in (drawn(spec, rng), *others)]


@pytest.mark.parametrize("kind", ["image", "video"])
def test_is_an_assessment_whose_parts_agree(kind):
    for _, views in pairs(60, kind):
        for first, second in ((0, 1), (1, 0), (0, 2), (2, 0), (1, 2)):
            text = brief_assessment(views[first], views[second])
            told = parse_assessment(text)
            assert isinstance(told, Assessment)
            assert json.dumps(json.loads(text), separators=(",", ":")) == text
            assert told.agreement == 1.0
            if views[first].worth != views[second].worth:
                assert told.side == (0 if views[first].worth > views[second].worth else 1)


def test_the_other_order_says_the_same_of_the_other_side():
    for _, views in pairs(60, "image"):
        told, swapped = (parse_assessment(brief_assessment(*order)) for order in (views[:2], views[1::-1]))
        for one, other in zip(told.categories, swapped.categories, strict=True):
            assert [dim.score_1 for dim in one.dims] == [dim.score_2 for dim in other.dims]
            assert [dim.reason_1 for dim in one.dims] == [dim.reason_2 for dim in other.dims]
            if views[0].worth != views[1].worth:
                assert one.side == 1 - other.side


@pytest.mark.slow
def test_the_criterion_follows_the_caption():
    seen = set()
    for kind in ("image", "video"):
        for caption, views in pairs(150, kind):
            told = parse_assessment(brief_assessment(*views[:2]))
            category = parse_caption(caption).category
            for personal in told.personalized:
                assert CRITERIA[category] in personal.dims[0].name.lower()
                seen.add(category)
    assert seen == {*IMAGE_CATEGORIES, *VIDEO_CATEGORIES}


def test_says_what_can_be_seen_in_the_terms_of_the_caption():
    scene = (Thing("circle", "red", 8.0, 16.0, 4.5), Thing("square", "blue", 24.0, 16.0, 8.0))
    sample = render(scene)
    assert view("a red circle and a blue square", sample).shown == "red circle, blue square"
    assert view("a small red circle", sample).shown == "small red circle, large blue square"
    beside = view("a red circle left of a blue square", sample)
    assert beside.shown == "red circle left, blue square right"
    caption = "a red circle right of a green square"
    right = render((Thing("square", "green", 8.0, 16.0, 4.5), Thing("circle", "red", 24.0, 16.0, 4.5)))
    text = brief_assessment(view(caption, sample), view(caption, right))
    assert '"reason_1":"red circle left, blue square right; misses colour 2, place"' in text
    # four of six demands against all of them: 5 - 4 * 2 / 6 rounded
    assert '"score_1":4,"score_2":6' in text
    assert view("a red circle", np.full((32, 32, 3), 240, np.uint8)).shown == "nothing"


def test_a_video_is_told_by_a_frame_that_shows_why_it_fails():
    places = np.linspace(8.0, 24.0, 9)
    asked = [(Thing("circle", "red", x, 16.0, 6.0),) for x in places]
    other = [(Thing("square", "red", x, 16.0, 6.0),) for x in places]
    caption = "a red circle moving right"
    assert view(caption, render_video([*asked[:8], *other[8:]])).shown == "red circle; moves right"
    mixed = view(caption, render_video([*asked[:5], *other[5:]]))
    assert mixed.shown == "red square; moves right"
    assert not mixed.met["1 shape circle"]


def test_a_foreign_caption_is_refused():
    with pytest.raises(ValueError, match="small world"):
        view("a photograph of a dog", render(()))
