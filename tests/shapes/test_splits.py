"""The splits share no composition, judged by a parser of their own for captions and by geometry for scenes."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from functools import cache

import numpy as np
import pytest

from flexgym.shapes.captions import SIMPLE_CATEGORIES, Noun, Spec, parse_caption, phrasings
from flexgym.shapes.sampling import draw_clip, draw_scene
from flexgym.shapes.scenes import FRAMES
from flexgym.shapes.splits import (
    CATEGORIES,
    SPLITS,
    colorings,
    compositions,
    draw_prompts,
    specs,
    split_of,
    split_of_composition,
)

MODALITIES = ("image", "video")
DRAWS = [(modality, split) for modality in MODALITIES for split in SPLITS]
_COLOR, _SHAPE = "(red|green|blue|yellow|purple|black)", "(circle|square|triangle|cross|ring|bar)"
NOUN = re.compile(rf"(?:(two|three|four|five) )?(?:(small|large) )?{_COLOR} {_SHAPE}|{_SHAPE} that is {_COLOR}\b")
MOTION = re.compile(r"left|right|up|down|bounc|grow|shrink|rotat")


def named(caption):
    """Return the compositions that the words of a caption name, found without the grammar."""
    found = []
    for match in NOUN.finditer(caption):
        number, size, color, shape, other_shape, other_color = match.groups()
        found.append((number, size, f"{color or other_color} {shape or other_shape}"))
    kinds = sorted({kind for *_, kind in found})
    if len(kinds) > 1:
        return set(itertools.combinations(kinds, 2))
    motion, speed = MOTION.search(caption), re.search("slowly|quickly", caption)
    if motion:
        return {(motion.group(), speed and speed.group(), kind) for kind in kinds}
    if number := re.search("two|three|four|five", caption):
        return {(number.group(), kind) for kind in kinds}
    size = re.search("small|large", caption)
    return {(size.group(), kind) for kind in kinds} if size else set()


@cache
def captions(modality, split):
    return tuple(text for members in specs(modality, split).values() for spec in members for text in phrasings(spec))


@cache
def named_in(modality, split):
    """Return the compositions that occur in one caption of each meaning of one or two things."""
    members = itertools.chain.from_iterable(specs(modality, split).values())
    return frozenset(
        itertools.chain.from_iterable(named(phrasings(spec)[0]) for spec in members if len(spec.nouns) < 3)
    )


@pytest.mark.parametrize("modality", MODALITIES)
def test_every_held_out_caption_names_a_composition_that_no_other_split_has(modality):
    training = named_in(modality, "training")
    own = {split: named_in(modality, split) - training for split in ("validation", "test")}
    assert not own["validation"] & own["test"]
    for split, members in own.items():
        prompts = draw_prompts(modality, split, 800, seed=1)
        assert all(named(caption) & members for caption in prompts)
        assert all(named(caption) <= members | training for caption in prompts)


@pytest.mark.slow
@pytest.mark.parametrize("modality", MODALITIES)
def test_no_caption_is_in_two_splits(modality):
    for one, other in itertools.combinations(SPLITS, 2):
        assert not {*captions(modality, one)} & {*captions(modality, other)}
    training = set(itertools.chain.from_iterable(map(named, captions(modality, "training"))))
    for split in ("validation", "test"):
        assert all(not named(caption) <= training for caption in captions(modality, split))


@pytest.mark.parametrize("modality", MODALITIES)
def test_held_out_splits_are_large_and_cover_every_category(modality):
    for split in ("validation", "test"):
        by_category = specs(modality, split)
        assert tuple(by_category) == CATEGORIES[modality]
        assert len({spec for members in by_category.values() for spec in members}) >= 400
        prompts = draw_prompts(modality, split, 2000, seed=0)
        assert len(set(prompts)) == 2000
        assert len({parse_caption(prompt) for prompt in prompts}) >= 400


def test_things_without_a_color_occur_in_training_only():
    for modality in MODALITIES:
        for split in ("validation", "test"):
            members = itertools.chain.from_iterable(specs(modality, split).values())
            assert all(noun.color for spec in members for noun in spec.nouns)
    assert not set(SIMPLE_CATEGORIES) & {*specs("image", "test"), *specs("image", "validation")}


def shown(clip, modality):
    """Return the compositions that scenes show, as named by the splits, from their geometry."""
    things = max(clip, key=len)
    kinds = [f"{thing.color} {thing.shape}" for thing in things]
    pairs = {" + ".join(sorted(pair)) for pair in itertools.combinations(kinds, 2) if len(set(pair)) == 2}
    pairs |= {f"{count} x {kind}" for kind, count in Counter(kinds).items() if count > 1}
    if len(things) > 1:
        return pairs
    if modality == "image":
        size = "small" if things[0].radius < 4.5 else "large" if things[0].radius > 6.8 else None
        return {f"{size} {kinds[0]}"} if size else set()
    return {f"{motion}: {kinds[0]}" for motion in motions(clip)}


def motions(clip):
    first, middle, last = (clip[index][0] for index in (0, FRAMES // 2, -1))
    dx, dy = last.x - first.x, last.y - first.y
    distance = abs(dx) + abs(dy)
    if distance > 6:
        way = ("right" if dx > 0 else "left") if abs(dx) > abs(dy) else "down" if dy > 0 else "up"
        speed = " slowly" if distance < 11 else " quickly" if distance > 17 else ""
        return [way + speed]
    if last.radius != first.radius:
        return ["growing" if last.radius > first.radius else "shrinking"]
    return ["rotating" if last.angle != first.angle else "bouncing" if middle.y != first.y else "nothing"]


def assert_scenes_belong_to(modality, split, count):
    rng = np.random.default_rng(6)
    for members in specs(modality, split).values():
        for index in rng.integers(len(members), size=count):
            spec = members[index]
            clip = [draw_scene(rng, spec)] if modality == "image" else draw_clip(rng, spec)
            seen = {split_of_composition(name, modality) for name in shown(clip, modality)} - {"training"}
            # A caption of absence belongs to a split for a pair that its scenes do not show.
            expected = {split} - {"training"} if spec.category != "absence" else set()
            assert seen == expected, (spec, clip)


@pytest.mark.parametrize(("modality", "split"), DRAWS)
def test_scenes_show_no_composition_of_another_split(modality, split):
    assert_scenes_belong_to(modality, split, 40)


@pytest.mark.slow
@pytest.mark.parametrize("modality", MODALITIES)
def test_training_scenes_show_no_held_out_composition(modality):
    assert_scenes_belong_to(modality, "training", 2000)


def test_training_captions_without_colors_never_show_a_held_out_pair():
    rng, pairs = np.random.default_rng(8), set()
    for category in ("two_things", "position", "counting", "size"):
        for spec in specs("image", "training")[category]:
            if spec.nouns[0].color is None:
                for _ in range(3):
                    found = shown([draw_scene(rng, spec)], "image")
                    assert {split_of_composition(name, "image") for name in found} <= {"training"}
                    pairs |= found
    # The colors differ from draw to draw.
    assert len(pairs) > 300


def test_a_caption_that_only_held_out_scenes_satisfy_is_in_no_split():
    spec = parse_caption("a ring moving right")
    assert colorings(spec) == ()
    assert spec not in specs("video", "training")["direction"]
    with pytest.raises(ValueError, match="got 'a ring moving right': name a color"):
        draw_clip(np.random.default_rng(0), spec)
    every = [spec for members in specs("video", "training").values() for spec in members]
    assert all(map(colorings, every))


def test_compositions_by_hand():
    circle, square, ring = Noun("circle", "red"), Noun("square", "blue"), Noun("ring", "black")
    pair = "blue square + red circle"
    assert compositions(Spec("binding", (circle, square))) == {pair}
    assert compositions(Spec("absence", (circle,), absent=square)) == {pair}
    assert compositions(Spec("three_things", (circle, square, ring))) == {
        pair,
        "black ring + red circle",
        "black ring + blue square",
    }
    assert compositions(Spec("counting", (Noun("circle", "red", count=3),))) == {"3 x red circle"}
    assert compositions(Spec("size", (Noun("circle", "red", "small"),))) == {"small red circle"}
    assert compositions(Spec("direction", (circle,), motion="left", speed="slowly")) == {"left slowly: red circle"}
    assert (
        compositions(Spec("color", (circle,))) == compositions(Spec("size", (Noun("circle", size="small"),))) == set()
    )


def test_a_caption_of_two_held_out_splits_belongs_to_none():
    held = {split: next(iter(specs("image", split)["binding"])) for split in SPLITS}
    names = {split: compositions(spec) for split, spec in held.items()}
    assert split_of(names["training"] | names["test"], "image") == "test"
    assert split_of(names["validation"] | names["test"], "image") is None
    assert split_of((), "video") == "training"


@pytest.mark.parametrize(("modality", "split"), DRAWS)
def test_prompts_are_distinct_balanced_and_determined_by_the_seed(modality, split):
    prompts = draw_prompts(modality, split, 280, seed=5)
    assert prompts == draw_prompts(modality, split, 280, seed=5)
    assert prompts != draw_prompts(modality, split, 280, seed=6)
    assert len(set(prompts)) == 280
    for count in (70, 280):
        numbers = Counter(parse_caption(prompt).category for prompt in prompts[:count])
        full = [number for category, number in numbers.items() if number < available(modality, split, category)]
        assert max(full) - min(full) <= 1, numbers
        assert all(number >= min(full) or number == available(modality, split, c) for c, number in numbers.items())


def available(modality, split, category):
    """Return the number of captions of a category, if it is below a thousand."""
    return sum(len(phrasings(spec)) for spec in specs(modality, split)[category][:1000])


def test_prompts_of_a_category_come_from_different_meanings_first():
    prompts = draw_prompts("image", "test", 7 * 18, seed=3)
    numbers = Counter(map(parse_caption, prompts))
    assert set(numbers.values()) == {1}


def test_more_prompts_than_there_are_cannot_be_drawn():
    with pytest.raises(ValueError, match=r"expected at most \d+ prompts, the video captions of test, got 1000000"):
        draw_prompts("video", "test", 1_000_000, seed=0)
