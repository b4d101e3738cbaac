from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from flexgym.core.errors import UnknownNameError
from flexgym.shapes.captions import (
    IMAGE_CATEGORIES,
    SIMPLE_CATEGORIES,
    VIDEO_CATEGORIES,
    Noun,
    Spec,
    image_specs,
    parse_caption,
    phrasings,
    video_specs,
    vocabulary,
)
from flexgym.shapes.scenes import COLORS, SHAPES
from flexgym.shapes.splits import specs

EVERY = {"image": tuple(image_specs()), "video": tuple(video_specs())}
SMALL = 800
RED_CIRCLE, BLUE_SQUARE, BLACK_RING = Noun("circle", "red"), Noun("square", "blue"), Noun("ring", "black")


def assert_parses_back(spec):
    captions = phrasings(spec)
    assert len(set(captions)) == len(captions) >= 4
    assert [parse_caption(caption) for caption in captions] == [spec] * len(captions), spec


@pytest.mark.parametrize("modality", EVERY)
def test_every_caption_of_a_small_category_parses_back(modality):
    sizes = Counter(spec.category for spec in EVERY[modality])
    small = [spec for spec in EVERY[modality] if sizes[spec.category] <= SMALL]
    assert (
        {spec.category for spec in small} >= {"bouncing", "rotating"} if modality == "video" else {"size", "counting"}
    )
    for spec in small:
        assert_parses_back(spec)


@pytest.mark.parametrize(("modality", "count"), [("image", 1500), ("video", 500)])
def test_captions_of_a_sample_parse_back(modality, count):
    chosen = np.random.default_rng(count).permutation(len(EVERY[modality]))[:count]
    for index in chosen:
        assert_parses_back(EVERY[modality][index])


@pytest.mark.slow
def test_captions_of_five_thousand_specs_parse_back():
    rng = np.random.default_rng(7)
    every = [*EVERY["image"], *EVERY["video"]]
    for index in rng.permutation(len(every))[:5000]:
        assert_parses_back(every[index])


def test_no_caption_has_two_meanings():
    rng = np.random.default_rng(1)
    known = {}
    some = [EVERY["image"][index] for index in rng.permutation(len(EVERY["image"]))[:4000]]
    for spec in (*some, *EVERY["video"]):
        for caption in phrasings(spec):
            assert known.setdefault(caption, spec) == spec


def test_every_category_exists():
    found = {modality: list(dict.fromkeys(spec.category for spec in EVERY[modality])) for modality in EVERY}
    assert set(found["image"]) == {*SIMPLE_CATEGORIES, *IMAGE_CATEGORIES}
    assert set(found["video"]) == set(VIDEO_CATEGORIES)
    assert len(set(EVERY["image"])) == len(EVERY["image"])


def test_the_last_phrasing_has_two_sentences():
    for modality, known in EVERY.items():
        for _, group in itertools.groupby(known[:3000], key=lambda spec: spec.category):
            spec = next(group)
            assert spec.modality == modality
            assert ". " in phrasings(spec)[-1]
            assert not any(". " in caption for caption in phrasings(spec)[:-1])


@pytest.mark.parametrize(
    ("caption", "spec"),
    [
        ("exactly three triangles", Spec("counting", (Noun("triangle", count=3),))),
        ("five red crosses", Spec("counting", (Noun("cross", "red", count=5),))),
        ("a small circle", Spec("size", (Noun("circle", size="small"),))),
        ("a square to the left of a cross", None),
        ("a square that is to the left of a cross", Spec("position", (Noun("square"), Noun("cross")), "left of")),
        (
            "a square that is red and a cross that is blue",
            Spec("binding", (Noun("square", "red"), Noun("cross", "blue"))),
        ),
        ("a red circle, a blue square and a black ring", Spec("three_things", (RED_CIRCLE, BLUE_SQUARE, BLACK_RING))),
        (
            "a red circle and a blue square with a black ring between them",
            Spec("between", (BLACK_RING, RED_CIRCLE, BLUE_SQUARE), "between"),
        ),
        ("a red circle, but no blue square", Spec("absence", (RED_CIRCLE,), absent=BLUE_SQUARE)),
        ("a red circle moving left slowly", Spec("direction", (RED_CIRCLE,), motion="left", speed="slowly")),
        ("a blue square moving past a red circle", Spec("passing", (BLUE_SQUARE, RED_CIRCLE), motion="passing")),
        (
            "a red circle standing still while a blue square moves up",
            Spec("standing", (BLUE_SQUARE, RED_CIRCLE), motion="up"),
        ),
        ("a red circle appears after a blue square", Spec("order", (BLUE_SQUARE, RED_CIRCLE), motion="before")),
    ],
)
def test_captions_by_hand(caption, spec):
    if spec is None:
        with pytest.raises(ValueError, match="expected a caption of the small world"):
            parse_caption(caption)
    else:
        assert parse_caption(caption) == spec


@pytest.mark.parametrize("caption", ["A RED Circle.", "  a red   circle ", "a red\tcircle\n", "a Red circle ."])
def test_case_space_and_full_stop_do_not_matter(caption):
    assert parse_caption(caption) == Spec("color", (RED_CIRCLE,))


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a dog on a beach",
        "red circle circle",
        "a red circle and a red circle",
        "six circles",
        "a red circle rotating slowly",
    ],
)
def test_foreign_captions_are_refused_with_an_example(caption):
    with pytest.raises(ValueError, match=r"expected a caption of the small world, such as 'a red circle.*got "):
        parse_caption(caption)


@pytest.mark.parametrize(
    ("caption", "nearest"),
    [
        ("a red circel", "a red circle"),
        ("a red circle betwen a blue sqare and a black ring", "a red circle between a blue square and a black ring"),
        ("a red circle moveing left quikly", "a red circle moving left quickly"),
    ],
)
def test_a_near_miss_gets_the_nearest_caption(caption, nearest):
    with pytest.raises(ValueError, match=f"Did you mean '{nearest}'"):
        parse_caption(caption)


def test_a_long_text_is_refused_in_short():
    with pytest.raises(ValueError, match="got 'a dog on the moon'$"):
        parse_caption("a dog on the moon")
    with pytest.raises(ValueError, match="expected a caption") as error:
        parse_caption("a red circle " * 1000)
    assert len(str(error.value)) < 1000


def test_the_vocabulary_has_every_word_of_every_caption():
    words = set(vocabulary())
    assert {*SHAPES, *COLORS} <= words
    rng = np.random.default_rng(2)
    for known in EVERY.values():
        for index in rng.permutation(len(known))[:1000]:
            for caption in phrasings(known[index]):
                assert set(caption.replace(",", " , ").replace(".", " . ").split()) <= words


def test_unknown_modality_and_split_name_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'video'"):
        specs("videos", "training")
    with pytest.raises(UnknownNameError, match="Did you mean 'validation'"):
        specs("image", "validaton")
