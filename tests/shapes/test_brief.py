from __future__ import annotations

import itertools
import json
import re

import numpy as np
import pytest
from scipy import ndimage

from flexgym.judge import parse_assessment
from flexgym.judge.assessment import Assessment
from flexgym.shapes.brief import brief_assessment, cannot_tell, pieces, view, words
from flexgym.shapes.captions import phrasings
from flexgym.shapes.sampling import draw_caption, draw_clip, draw_scene, draw_spec
from flexgym.shapes.scenes import FRAMES, Thing, render, render_video
from tests.shapes.draws import CATEGORIES, drawn, moving

CRITERIA = {
    "shape": "shape",
    "color": "color",
    "two_things": "both",
    "size": "size",
    "counting": "count",
    "binding": "color",
    "three_things": "all",
    "position": "place",
    "between": "place",
    "absence": "absent",
    "order": "order",
}
EMPTY = render(())


def views(category, count):
    """Yield captions with the views of their own sample and of two others of the category."""
    chosen, _, samples = drawn(category, count)
    for number, spec in enumerate(chosen):
        caption = phrasings(spec)[number % len(phrasings(spec))]
        yield caption, [view(caption, samples[(number + step) % count]) for step in range(3)]


@pytest.mark.parametrize("category", CATEGORIES)
def test_is_an_assessment_whose_parts_agree(category):
    for _, shown in views(category, 4):
        for first, second in itertools.permutations(range(3), 2):
            text = brief_assessment(shown[first], shown[second])
            told = parse_assessment(text)
            assert isinstance(told, Assessment)
            assert json.dumps(json.loads(text), separators=(",", ":")) == text
            assert told.agreement == 1.0
            assert not cannot_tell(told)
            assert CRITERIA.get(category, "motion") in told.personalized[0].dims[0].name.lower()
            if shown[first].worth != shown[second].worth:
                assert told.side == (0 if shown[first].worth > shown[second].worth else 1)


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_other_order_says_the_same_of_the_other_side(category):
    for _, shown in views(category, 4):
        told, swapped = (parse_assessment(brief_assessment(*order)) for order in (shown[:2], shown[1::-1]))
        for one, other in zip(told.categories, swapped.categories, strict=True):
            assert [dim.score_1 for dim in one.dims] == [dim.score_2 for dim in other.dims]
            assert [dim.reason_1 for dim in one.dims] == [dim.reason_2 for dim in other.dims]
            if shown[0].worth != shown[1].worth:
                assert one.side == 1 - other.side


def test_every_text_is_composed_of_the_pieces_and_words():
    known, separators = sorted(pieces(), key=len, reverse=True), {word for text in words() for word in text.split()}
    for category in CATEGORIES:
        for _, shown in views(category, 4):
            rest = brief_assessment(*shown[:2])
            for piece in known:
                rest = rest.replace(piece, " ")
            assert set(re.findall(r"[^\s,;]+", rest)) <= separators


def test_says_what_can_be_seen_in_the_terms_of_the_caption():
    scene = (Thing("circle", "red", 8.0, 16.0, 5.0), Thing("square", "blue", 24.0, 16.0, 8.0))
    sample = render(scene)
    assert view("a red circle and a blue square", sample).shown == "red circle, blue square"
    small = view("a small red circle", sample).shown
    assert small == "medium red circle instead of small red circle, large blue square"
    beside = view("a red circle left of a blue square", sample)
    assert beside.shown == "red circle left, blue square right"
    caption = "a red circle right of a green square"
    right = render((Thing("square", "green", 8.0, 16.0, 4.5), Thing("circle", "red", 24.0, 16.0, 4.5)))
    text = brief_assessment(view(caption, sample), view(caption, right))
    told = "red circle left, blue square right instead of green square; misses color 2, place"
    assert f'"reason_1":"{told}"' in text
    # four of six demands against all of them: 5 - 4 * 2 / 6 rounded
    assert '"score_1":4,"score_2":6' in text
    assert view("a red circle", EMPTY).shown == "nothing"
    assert view("a red circle and a black bar", sample).shown == "red circle, blue square instead of black bar"
    alone = render(scene[:1])
    assert view("a red circle and a black bar", alone).shown == "red circle, nothing instead of black bar"
    blue = view("two blue circles", sample).shown
    assert blue == "red circle instead of blue circle, blue square instead of blue circle"


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("five purple bars", "purple bar, purple bar, purple bar, purple bar, purple bar"),
        (
            "a small purple bar",
            "small purple bar, small purple bar, small purple bar, small purple bar, small purple bar",
        ),
        (
            "a purple bar between a red circle and a blue ring",
            "purple bar middle, purple bar top left instead of red circle, purple bar bottom right instead of"
            " blue ring, purple bar bottom left",
        ),
        (
            "a purple bar above a red circle",
            "purple bar top, purple bar bottom instead of red circle, purple bar middle, purple bar top",
        ),
        ("a purple bar and no red circle", "purple bar, purple bar, purple bar, purple bar, purple bar"),
    ],
)
def test_up_to_five_things_are_listed(caption, expected):
    places = [(6, 6), (6, 26), (16, 16), (26, 6), (26, 26)]
    things = [Thing("bar", "purple", x, y, 3.2) for x, y in places]
    assert view(caption, render(tuple(things))).shown.startswith(expected)
    six = view(caption, render((*things, Thing("bar", "purple", 16, 6, 3.2)))).shown
    assert six.endswith(", more")
    assert six.count("purple bar") == 5


@pytest.mark.parametrize(
    ("caption", "clip", "missed"),
    [
        (
            "a red circle moving right slowly",
            moving(np.linspace(6, 26, FRAMES)),
            "moves right quickly instead of moves right slowly; misses speed",
        ),
        (
            "a red circle moving left",
            moving(np.linspace(6, 26, FRAMES)),
            "moves right instead of moves left; misses motion",
        ),
        ("a red circle growing", moving(16.0), "stays instead of grows; misses motion"),
        (
            "a red circle moving right while a blue square stands still",
            [(a, Thing("square", "blue", a.x, 25, 4.8)) for (a,) in moving(np.linspace(9, 23, FRAMES), 8.0)],
            "moves right, moves right instead of moves right, stays; misses still 2",
        ),
    ],
)
def test_missed_demands_are_named_in_short(caption, clip, missed):
    text = brief_assessment(*[view(caption, render_video(clip))] * 2)
    assert f'; {missed}"' in text


def test_missed_demands_of_images_are_named_in_short():
    both = render((Thing("circle", "red", 8, 16, 4.6), Thing("square", "blue", 24, 16, 4.6)))
    text = brief_assessment(*[view("a red circle and no blue square", both)] * 2)
    assert '"red circle, blue square; misses count, absence"' in text
    assert '"reason_1":"missed","reason_2":"missed"' in text


def test_says_that_it_cannot_tell_if_neither_can_be_read():
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    smear = ndimage.gaussian_filter(render((Thing("ring", "red", 16, 16, 8),)).astype(np.float32), (6, 6, 0))
    unreadable = [EMPTY, noise, smear.astype(np.uint8), np.full_like(EMPTY, 128)]
    for caption in ("a red circle", "two circles", "a red circle and no blue square"):
        for first, second in itertools.permutations(unreadable, 2):
            told = parse_assessment(brief_assessment(view(caption, first), view(caption, second)))
            assert cannot_tell(told)
            assert told.reason == "Neither can be read."
            assert all(dim.score_1 == dim.score_2 == 5 for category in told.categories for dim in category.dims)


def test_a_readable_sample_wins_against_an_unreadable_one():
    for caption in ("a red circle", "a blue ring and no red circle"):
        shown = [view(caption, sample) for sample in (EMPTY, render((Thing("circle", "red", 16, 16, 5),)))]
        told = parse_assessment(brief_assessment(*shown))
        assert not cannot_tell(told)
        assert told.side == 1
        assert not shown[0].readable
        assert shown[0].share == 0.0


def test_a_video_is_told_by_a_frame_that_shows_why_it_fails():
    places = np.linspace(8.0, 24.0, 9)
    asked = [(Thing("circle", "red", x, 16.0, 6.0),) for x in places]
    other = [(Thing("square", "red", x, 16.0, 6.0),) for x in places]
    caption = "a red circle moving right"
    assert view(caption, render_video([*asked[:8], *other[8:]])).shown == "red circle; moves right"
    mixed = view(caption, render_video([*asked[:5], *other[5:]]))
    assert mixed.shown == "red square instead of red circle; moves right"
    assert not mixed.met["1 shape circle"]


def test_a_foreign_caption_is_refused():
    with pytest.raises(ValueError, match="small world"):
        view("a photograph of a dog", render(()))


@pytest.mark.parametrize("modality", ["image", "video"])
def test_what_satisfies_its_caption_is_nowhere_instead_of_something_else(modality):
    rng = np.random.default_rng(0)
    for _ in range(60):
        spec = draw_spec(rng, modality, "training")
        sample = render(draw_scene(rng, spec)) if modality == "image" else render_video(draw_clip(rng, spec))
        one = view(draw_caption(rng, spec), sample)
        if one.share == 1.0:
            assert "instead" not in one.shown
        names = {key for key, met in one.met.items() if not met} - {"count"}
        assert ("instead" in one.shown) <= bool(names)
