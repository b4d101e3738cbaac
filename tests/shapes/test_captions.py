from __future__ import annotations

import re
from collections import Counter

import pytest

from flexgym.core.errors import UnknownNameError
from flexgym.shapes.captions import (
    IMAGE_CATEGORIES,
    VIDEO_CATEGORIES,
    Noun,
    Spec,
    heldout_prompts,
    parse_caption,
    phrasings,
    specs,
    training_prompts,
)

CATEGORIES = {"image": IMAGE_CATEGORIES, "video": VIDEO_CATEGORIES}
SPLITS = [(kind, split) for kind in CATEGORIES for split in ("training", "rich", "held_out")]
CROSS_AND_CIRCLE = (Noun("cross", "blue"), Noun("circle", "red"))
NOUN = re.compile(
    r"(?:(two|three|four) )?(?:(small|large) )?(?:(red|green|blue|yellow) )?"
    r"(circle|square|triangle|cross)(?:es|s)?(?: that is (red|green|blue|yellow))?"
)


def facts(caption):
    """Compositions that the words of a caption name, found without the grammar."""
    found = [match.groups() for match in NOUN.finditer(caption)]
    assert found, caption
    nouns = [(number, size, color or after, shape) for number, size, color, shape, after in found]
    motion = re.search("left|right|up|down|bouncing|growing|shrinking|rotating", caption)
    for index, (number, size, color, shape) in enumerate(nouns):
        yield (color, shape)
        yield (size, color, shape)
        yield (number, color, shape)
        yield from ((color, shape, "with", partner) for *_, partner in nouns[:index] + nouns[index + 1 :])
        if motion and len(nouns) == 1:
            yield (motion.group(), color, shape)
    for said, meant in {"left of": "left of", "right of": "left of", "above": "above", "below": "above"}.items():
        if said in caption:
            first, second = (shape for *_, shape in nouns)
            yield (first, meant, second) if said == meant else (second, meant, first)


@pytest.mark.parametrize(("kind", "split"), SPLITS)
def test_every_phrasing_parses_back(kind, split):
    for category, members in specs(kind, split).items():
        for spec in members:
            assert (spec.category, spec.modality) == (category, kind)
            assert len(set(phrasings(spec))) >= 2
            assert [parse_caption(caption) for caption in phrasings(spec)] == [spec] * len(phrasings(spec))


@pytest.mark.parametrize(("kind", "split"), SPLITS)
def test_every_category_exists(kind, split):
    expected = set(CATEGORIES[kind])
    absent = {"rich": {"attribution", "colours"}, "held_out": {"colours"}}.get(split, set())
    assert set(specs(kind, split)) == expected - absent


@pytest.mark.parametrize("kind", CATEGORIES)
def test_base_models_are_not_taught_all_that_the_prompts_name(kind):
    named = {fact for caption in training_prompts(kind) for fact in facts(caption)}
    members = [specs(kind, split, only_taught=True) for split in ("training", "rich")]
    taught = {fact for by in members for found in by.values() for s in found for fact in facts(phrasings(s)[0])}
    assert {fact for fact in named - taught if len(fact) == 2} == {("red", "cross"), ("green", "circle")}


def captions_of(kind, split):
    return [text for members in specs(kind, split).values() for spec in members for text in phrasings(spec)]


@pytest.mark.parametrize("kind", CATEGORIES)
def test_every_held_out_caption_names_a_composition_that_no_training_caption_names(kind):
    trained = {fact for caption in training_prompts(kind) for fact in facts(caption)}
    assert not [caption for caption in heldout_prompts(kind) if trained.issuperset(facts(caption))]


@pytest.mark.parametrize("kind", CATEGORIES)
def test_no_caption_is_in_two_splits(kind):
    captions = [text for split in ("training", "rich", "held_out") for text in captions_of(kind, split)]
    assert len(set(captions)) == len(captions)


@pytest.mark.parametrize("kind", CATEGORIES)
def test_training_prompts_are_balanced_and_complete(kind):
    prompts = training_prompts(kind)
    by_category = {category: [] for category in CATEGORIES[kind]}
    for prompt in prompts:
        by_category[parse_caption(prompt).category].append(prompt)
    assert len({len(captions) for captions in by_category.values()}) == 1
    for category, captions in by_category.items():
        often = Counter(captions)
        members = [spec for split in ("training", "rich") for spec in specs(kind, split).get(category, ())]
        assert set(often) == {text for spec in members for text in phrasings(spec)}
        assert max(often.values()) - min(often.values()) <= 1
    assert training_prompts(kind) == prompts


@pytest.mark.parametrize("kind", CATEGORIES)
def test_held_out_prompts_come_once_each(kind):
    prompts = heldout_prompts(kind)
    assert (
        len(set(prompts)) == len(prompts) == sum(len(phrasings(s)) for m in specs(kind, "held_out").values() for s in m)
    )


@pytest.mark.parametrize(
    ("caption", "spec"),
    [
        ("exactly three triangles", Spec("counting", (Noun("triangle", count=3),))),
        ("two crosses", Spec("counting", (Noun("cross", count=2),))),
        ("a small circle", Spec("object", (Noun("circle", size="small"),))),
        ("a square to the left of a cross", Spec("position", (Noun("square"), Noun("cross")), "left of")),
        (
            "a square that is red and a cross that is blue",
            Spec("attribution", (Noun("square", "red"), Noun("cross", "blue"))),
        ),
        ("a blue cross moving past a red circle", Spec("passing", CROSS_AND_CIRCLE, motion="passing")),
        ("first a blue cross then a red circle", Spec("order", CROSS_AND_CIRCLE, motion="before")),
    ],
)
def test_captions_by_hand(caption, spec):
    assert parse_caption(caption) == spec


@pytest.mark.parametrize("caption", ["A RED Circle.", "  a red   circle ", "a red\tcircle\n", "a Red circle ."])
def test_case_space_and_full_stop_do_not_matter(caption):
    assert parse_caption(caption) == Spec("colours", (Noun("circle", "red"),))


@pytest.mark.parametrize(
    "caption", ["", "a dog on a beach", "red circle circle", "a video of a red circle that moves up"]
)
def test_foreign_captions_are_refused_with_an_example(caption):
    with pytest.raises(ValueError, match=r"expected a caption of the small world, such as 'a red circle'.*got "):
        parse_caption(caption)


def test_a_near_miss_is_told_the_nearest_caption():
    with pytest.raises(ValueError, match="Did you mean 'a red circle'"):
        parse_caption("a red circel")
    with pytest.raises(ValueError, match="got 'a dog on the moon'$"):
        parse_caption("a dog on the moon")


def test_unknown_kind_and_split_name_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'video'"):
        specs("videos", "training")
    with pytest.raises(UnknownNameError, match="Did you mean 'held_out'"):
        specs("image", "heldout")
