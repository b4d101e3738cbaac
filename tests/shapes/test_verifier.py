from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from flexgym.shapes.captions import BETWEEN, RELATIONS, Noun, Spec, phrasings
from flexgym.shapes.reading import read_samples
from flexgym.shapes.scenes import COLORS, FRAMES, SHAPES, Thing, render, render_video
from flexgym.shapes.verifier import check, seen_motion, size_word, verify
from tests.shapes.draws import CATEGORIES, SPOILS, blurred, clean, compressed, drawn, is_true, moving, noisy, rivals

FEW = {"image": 45, "video": 9}
MANY = {"image": 450, "video": 60}


@cache
def readings(category, count, spoil=clean):
    return read_samples(spoil(drawn(category, count)[2]))


def accepted(category, count, spoil=clean):
    """Return for each sample whether it satisfies its own caption."""
    pairs = zip(drawn(category, count)[0], readings(category, count, spoil), strict=True)
    return [check(spec, reading).satisfied for spec, reading in pairs]


def rejected(category, count, spoil=clean):
    """Return for each sample and each caption that is false of it whether it does not satisfy it."""
    rng, found = np.random.default_rng(3), []
    chosen, clips, _ = drawn(category, count)
    for spec, clip, reading in zip(chosen, clips, readings(category, count, spoil), strict=True):
        false = [other for other in rivals(rng, spec) if not is_true(other, clip)]
        found += [not check(other, reading).satisfied for other in false]
    return found


@pytest.mark.parametrize("category", CATEGORIES)
def test_scenes_satisfy_their_captions_and_no_others(category):
    count = FEW[CATEGORIES[category]]
    assert all(is_true(spec, clip) for spec, clip in zip(*drawn(category, count)[:2], strict=True))
    assert all(accepted(category, count))
    false = rejected(category, count)
    assert len(false) > count
    assert np.mean(false) >= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("spoil", SPOILS)
def test_spoiled_scenes_satisfy_their_captions_and_no_others(spoil):
    least = 0.99 if spoil is clean else 0.97
    met = {category: accepted(category, MANY[kind], spoil) for category, kind in CATEGORIES.items()}
    assert all(np.mean(each) >= least for each in met.values()), met
    assert np.mean([np.mean(each) for each in met.values()]) >= (0.995 if spoil is clean else 0.97)
    false = {category: np.mean(rejected(category, MANY[kind], spoil)) for category, kind in CATEGORIES.items()}
    assert all(share >= least for share in false.values()), false


@pytest.mark.benchmark
def test_accuracy_by_category():
    count = {"image": 1500, "video": 200}
    print(f"\n{'accepted / rejected':<22}" + "".join(f"{spoil.__name__:>19}" for spoil in SPOILS))
    for category, kind in CATEGORIES.items():
        shares = [
            (np.mean(accepted(category, count[kind], spoil)), np.mean(rejected(category, count[kind], spoil)))
            for spoil in SPOILS
        ]
        print(f"{category:<22}" + "".join(f"{own:>10.4f} /{other:>7.4f}" for own, other in shares))
        drawn.cache_clear()
        readings.cache_clear()


@pytest.mark.parametrize("spoil", [blurred, noisy, compressed])
def test_spoiled_scenes_of_some_categories(spoil):
    for category in ("binding", "counting", "between", "rotating"):
        assert np.mean(accepted(category, FEW[CATEGORIES[category]], spoil)) >= 0.97


RED_CIRCLE = Thing("circle", "red", 9, 16, 5)
BLUE_CROSS = Thing("cross", "blue", 24, 16, 5)
BLUE_SQUARE = Thing("square", "blue", 24, 16, 5)
GREEN_CROSS = Thing("cross", "green", 24, 16, 5)
BLACK_RING = Thing("ring", "black", 16, 27, 4)
TWO_CIRCLES = (RED_CIRCLE, Thing("circle", "red", 24, 16, 5))
FIVE_BARS = tuple(Thing("bar", "purple", x, y, 3.2) for x, y in ((6, 6), (26, 6), (16, 16), (6, 26), (26, 26)))
ROW = (Thing("circle", "red", 5, 16, 3.2), Thing("ring", "black", 16, 16, 3.2), Thing("bar", "blue", 27, 16, 3.2))


def missed(caption, sample):
    return {key for key, met in verify(caption, sample).constraints.items() if not met}


@pytest.mark.parametrize(
    ("caption", "scene", "expected"),
    [
        ("a red circle", (RED_CIRCLE,), set()),
        # a missing thing, and one too many
        ("a red circle", (), {"count 1", "1 shape circle", "1 color red"}),
        ("a circle and a cross", (RED_CIRCLE,), {"count 2", "2 shape cross"}),
        ("two circles", (RED_CIRCLE,), {"count 2"}),
        ("three circles", TWO_CIRCLES, {"count 3"}),
        ("a red circle", (RED_CIRCLE, BLUE_CROSS), {"count 1"}),
        ("two circles", (*TWO_CIRCLES, Thing("circle", "red", 16, 26, 4)), {"count 2"}),
        ("five purple bars", FIVE_BARS, set()),
        ("four purple bars", FIVE_BARS, {"count 4"}),
        ("five bars", FIVE_BARS[:4], {"count 5"}),
        # color, shape, size
        ("a blue circle", (RED_CIRCLE,), {"1 color blue"}),
        ("a red square", (RED_CIRCLE,), {"1 shape square"}),
        ("two squares", (BLUE_SQUARE, RED_CIRCLE), {"1 shape square"}),
        ("two blue circles", TWO_CIRCLES, {"1 color blue"}),
        ("two red circles", (RED_CIRCLE, Thing("circle", "blue", 24, 16, 5)), {"1 color red"}),
        ("a large circle", (RED_CIRCLE,), {"1 size large"}),
        ("a small circle", (RED_CIRCLE,), {"1 size small"}),
        ("a small blue circle", (Thing("circle", "red", 16, 16, 8),), {"1 size small", "1 color blue"}),
        ("a large circle", (Thing("circle", "red", 16, 16, 8),), set()),
        ("a small circle", (Thing("circle", "red", 16, 16, 3.7),), set()),
        ("a red circle and a blue cross", (RED_CIRCLE, BLUE_SQUARE), {"2 shape cross"}),
        ("a red circle and a blue cross", (RED_CIRCLE, GREEN_CROSS), {"2 color blue"}),
        ("a red circle, a blue cross and a black ring", (RED_CIRCLE, BLUE_CROSS, BLACK_RING), set()),
        ("a black ring, a red circle and a blue square", (RED_CIRCLE, BLUE_CROSS, BLACK_RING), {"3 shape square"}),
        # colors bound to the wrong things
        ("a blue circle and a red cross", (RED_CIRCLE, BLUE_CROSS), {"1 color blue", "2 color red"}),
        # relations
        ("a circle left of a cross", (RED_CIRCLE, BLUE_CROSS), set()),
        ("a circle right of a cross", (RED_CIRCLE, BLUE_CROSS), {"right of"}),
        ("a cross left of a circle", (RED_CIRCLE, BLUE_CROSS), {"left of"}),
        ("a circle above a cross", (RED_CIRCLE, BLUE_CROSS), {"above"}),
        ("a circle below a cross", (RED_CIRCLE, BLUE_CROSS), {"below"}),
        ("a circle left of a cross", (RED_CIRCLE,), {"count 2", "2 shape cross", "left of"}),
        ("a black ring between a red circle and a blue bar", ROW, set()),
        ("a black ring between a blue bar and a red circle", ROW, set()),
        ("a red circle between a black ring and a blue bar", ROW, {"between"}),
        (
            "a black ring between a red circle and a blue bar",
            ROW[:2],
            {"count 3", "3 shape bar", "3 color blue", "between"},
        ),
        # absence
        ("a red circle and no blue square", (RED_CIRCLE,), set()),
        ("a red circle and no blue square", (RED_CIRCLE, BLUE_SQUARE), {"count 1", "no blue square"}),
        ("a red circle and no blue square", (RED_CIRCLE, BLUE_CROSS), {"count 1"}),
        ("a red circle and no blue square", (BLUE_SQUARE,), {"1 shape circle", "1 color red", "no blue square"}),
    ],
)
def test_image_constraints_by_hand(caption, scene, expected):
    assert missed(caption, render(scene)) == expected


@pytest.mark.parametrize(("off", "between"), [(0.0, True), (4.0, True), (7.0, False)])
def test_a_thing_between_others_may_be_a_little_off_their_line(off, between):
    scene = (
        Thing("circle", "red", 5, 8, 3.2),
        Thing("ring", "black", 16, 8 + off, 3.2),
        Thing("bar", "blue", 27, 8, 3.2),
    )
    assert verify("a black ring between a red circle and a blue bar", render(scene)).satisfied == between


def test_things_are_matched_so_that_most_is_met():
    # The red circle on the right is the first noun although the blue circle comes first from the left.
    scene = (Thing("circle", "blue", 8, 16, 5), Thing("circle", "red", 24, 16, 5))
    spec = Spec("position", (Noun("circle", "red"), Noun("circle")), "right of")
    assert verify(spec, render(scene)).satisfied
    assert not verify(Spec("position", spec.nouns, "left of"), render(scene)).satisfied


def test_a_thing_of_three_is_found_among_six():
    things = [Thing("circle", color, x, y, 3.2) for color, (x, y) in zip(COLORS, _six_places(), strict=True)]
    spec = Spec("three_things", tuple(Noun("circle", color) for color in ("black", "red", "yellow")))
    assert missed(spec, render(tuple(things))) == {"count 3"}


def _six_places():
    return [(x, y) for x in (6, 16, 26) for y in (8, 24)]


@pytest.mark.parametrize("caption", ["a red circle", "a green circle", "two circles", "a circle and a square"])
def test_a_blob_of_two_colors_is_neither(caption):
    blob = render((Thing("circle", "red", 16, 16, 8),))
    right = render((Thing("circle", "green", 16, 16, 8),))
    blob[:, 16:] = right[:, 16:]
    assert not verify(caption, blob).satisfied


def test_a_shapeless_blob_has_no_shape():
    image = render(())
    image[6:26, 6:10] = image[22:26, 6:26] = COLORS["red"]
    for shape in SHAPES:
        assert missed(Spec("color", (Noun(shape, "red"),)), image) == {f"1 shape {shape}"}


@pytest.mark.parametrize("category", CATEGORIES)
def test_an_empty_sample_meets_nothing_but_absence(category):
    empty = render(()) if CATEGORIES[category] == "image" else render_video([()] * FRAMES)
    for spec in drawn(category, FEW[CATEGORIES[category]])[0]:
        met = {key for key, holds in verify(spec, empty).constraints.items() if holds}
        assert met == ({f"no {spec.absent.kind}"} if spec.absent else set())


STEPS = np.linspace(9, 23, FRAMES)
RIGHT, STILL = moving(STEPS), moving(16.0)
SLOWLY, QUICKLY = moving(np.linspace(12, 20, FRAMES)), moving(np.linspace(6, 26, FRAMES))
FALLING = moving(16.0, STEPS)
BOUNCE = moving(16.0, 24 - 16 * np.linspace(-1, 1, FRAMES) ** 2)
GROWING = moving(16.0, radius=np.linspace(4, 8, FRAMES))
TURNING = moving(16.0, shape="square", radius=7.0, angle=np.linspace(0, 72, FRAMES))
SWINGING = moving(16.0, shape="bar", radius=7.0, angle=np.linspace(0, -144, FRAMES))
SQUARE = Thing("square", "blue", 16, 25, 4.8)
PASSING = [(*moved, SQUARE) for moved in moving(np.linspace(7, 25, FRAMES), 8.0)]
PAIR_MOVING = [(a, Thing("square", "blue", a.x, 25, 4.8)) for (a,) in moving(STEPS, 8.0)]
PAIR_STILL = PASSING[:1] * FRAMES
ORDER = [(RED_CIRCLE, BLUE_SQUARE)[: 1 + (frame >= 4)] for frame in range(FRAMES)]
OTHER_ORDER = [(BLUE_SQUARE, RED_CIRCLE)[: 1 + (frame >= 4)] for frame in range(FRAMES)]
VANISHING = [(RED_CIRCLE,)] * 3 + [(RED_CIRCLE, BLUE_SQUARE)] * 3 + [(RED_CIRCLE,)] * 3
WHILE = "a red circle moving right while a blue square stands still"


@pytest.mark.parametrize(
    ("caption", "clip", "expected"),
    [
        ("a red circle moving right", RIGHT, set()),
        ("a red circle moving right", STILL, {"motion right"}),
        ("a red circle moving right", RIGHT[::-1], {"motion right"}),
        ("a red circle moving right", FALLING, {"motion right"}),
        ("a red circle moving down", FALLING, set()),
        ("a red circle moving up", FALLING, {"motion up"}),
        ("a blue circle moving right", RIGHT, {"1 color blue"}),
        ("a red square moving right", RIGHT, {"1 shape square"}),
        ("a red circle moving right", PAIR_MOVING, {"count 1"}),
        # speeds
        ("a red circle moving right", SLOWLY, set()),
        ("a red circle moving right", QUICKLY, set()),
        ("a red circle moving right slowly", SLOWLY, set()),
        ("a red circle moving right slowly", RIGHT, {"speed slowly"}),
        ("a red circle moving right slowly", STILL, {"motion right", "speed slowly"}),
        ("a red circle moving left slowly", SLOWLY, {"motion left"}),
        ("a red circle moving right quickly", QUICKLY, set()),
        ("a red circle moving right quickly", RIGHT, {"speed quickly"}),
        ("a red circle moving left quickly", SLOWLY, {"motion left", "speed quickly"}),
        ("a red circle bouncing", BOUNCE, set()),
        ("a red circle bouncing", STILL, {"motion bouncing"}),
        ("a red circle bouncing", FALLING, {"motion bouncing"}),
        ("a red circle growing", GROWING, set()),
        ("a red circle growing", GROWING[::-1], {"motion growing"}),
        ("a red circle shrinking", GROWING[::-1], set()),
        ("a red circle shrinking", STILL, {"motion shrinking"}),
        ("a red square rotating", TURNING, set()),
        ("a red square rotating", TURNING[::-1], set()),
        ("a red square rotating", TURNING[:1] * FRAMES, {"motion rotating"}),
        ("a red bar rotating", SWINGING, set()),
        ("a red bar rotating", SWINGING[:3] * 3, {"motion rotating"}),
        ("a red circle passing a blue square", PASSING, set()),
        ("a red circle passing a blue square", PASSING[::-1], set()),
        ("a red circle passing a blue square", PAIR_STILL, {"motion passing"}),
        ("a blue square passing a red circle", PASSING, {"motion passing"}),
        ("a red circle passing a blue square", PAIR_MOVING, {"motion passing"}),
        ("a red circle passing a blue square", RIGHT, {"count 2", "2 shape square", "2 color blue", "motion passing"}),
        (WHILE, PASSING, set()),
        (WHILE, PASSING[::-1], {"motion right"}),
        (WHILE, PAIR_MOVING, {"2 still"}),
        (WHILE, PAIR_STILL, {"motion right"}),
        (WHILE, RIGHT, {"count 2", "2 shape square", "2 color blue", "2 still"}),
        ("a blue square moving right while a red circle stands still", PASSING, {"motion right", "2 still"}),
        ("a red circle appears before a blue square", ORDER, set()),
        ("a blue square appears before a red circle", OTHER_ORDER, set()),
        ("a blue square appears before a red circle", ORDER, {"motion before"}),
        ("a red circle appears before a blue square", ORDER[-1:] * FRAMES, {"count 2", "motion before"}),
        ("a red circle appears before a blue square", ORDER[::-1], {"count 2", "motion before"}),
        ("a red circle appears before a blue square", VANISHING, {"count 2", "motion before"}),
    ],
)
def test_video_constraints_by_hand(caption, clip, expected):
    assert missed(caption, render_video(clip)) == expected


@pytest.mark.parametrize(
    ("category", "clip", "speed", "expected"),
    [
        ("direction", RIGHT, None, "moves right"),
        ("direction", QUICKLY, None, "moves right"),
        ("direction", QUICKLY, "slowly", "moves right quickly"),
        ("direction", SLOWLY[::-1], "slowly", "moves left slowly"),
        ("direction", RIGHT, "slowly", "moves right"),
        ("direction", moving(STEPS, STEPS), None, "drifts"),
        ("direction", STILL, None, "stays"),
        ("bouncing", BOUNCE, None, "bounces"),
        ("growing", GROWING, None, "grows"),
        ("growing", GROWING[::-1], None, "shrinks"),
        ("rotating", TURNING, None, "rotates"),
        ("standing", PASSING, None, "moves right, stays"),
        ("standing", PAIR_MOVING, None, "moves right, moves right"),
        ("passing", PASSING, None, "the first passes"),
        ("passing", PAIR_STILL, None, "stays"),
        ("passing", PAIR_MOVING, None, "drifts"),
        ("order", ORDER, None, "the first comes earlier"),
        ("order", OTHER_ORDER, None, "the second comes earlier"),
    ],
)
def test_a_motion_is_described_whatever_was_asked_for(category, clip, speed, expected):
    nouns = (Noun(clip[0][0].shape, "red"), Noun("square", "blue"))[: max(map(len, clip))]
    spec = Spec(category, (Noun("circle", "red"), nouns[1]) if len(nouns) > 1 else nouns, motion="left", speed=speed)
    assert seen_motion(spec, read_samples(render_video(clip)[None])[0]) == expected


def test_speed_is_that_of_the_frames_in_which_a_thing_is_seen():
    hidden = [(), *QUICKLY[1:7], (), ()]
    assert missed("a red circle moving right quickly", render_video(hidden)) == {"count 1"}


def test_a_flicker_is_forgiven_and_flickering_is_not():
    wrong = (Thing("circle", "blue", 16, 16, 5),)
    once = RIGHT[:4] + moving(STEPS, color="blue")[4:5] + RIGHT[5:]
    often = [wrong if frame % 2 else RIGHT[frame] for frame in range(FRAMES)]
    assert verify("a red circle moving right", render_video(once)).satisfied
    assert "1 color red" in missed("a red circle moving right", render_video(often))


def test_score_is_the_share_of_constraints():
    verdict = verify("a red circle and a blue cross", render((RED_CIRCLE, GREEN_CROSS)))
    assert dict(verdict.constraints) == {
        "count 2": True,
        "1 shape circle": True,
        "1 color red": True,
        "2 shape cross": True,
        "2 color blue": False,
    }
    assert verdict.score == 0.8
    assert not verdict.satisfied


def test_every_caption_of_a_spec_gives_one_verdict():
    for category, kind in CATEGORIES.items():
        chosen, _, samples = drawn(category, FEW[kind])
        assert len({tuple(verify(text, samples[0]).constraints.items()) for text in phrasings(chosen[0])}) == 1


def test_constraints_are_named_after_the_meaning():
    assert list(verify("a red circle and no blue square", render(())).constraints)[-1] == "no blue square"
    relations = (*RELATIONS, BETWEEN)
    for relation in relations:
        nouns = (Noun("circle", "red"), Noun("ring", "blue"), Noun("bar", "black"))[: 3 if relation == BETWEEN else 2]
        assert list(verify(Spec("position", nouns, relation), render(())).constraints)[-1] == relation


def test_the_modality_of_a_sample_must_be_that_of_the_caption():
    with pytest.raises(ValueError, match=r"modality 'video' for this caption, got 1 frame"):
        verify("a red circle moving right", render((RED_CIRCLE,)))
    with pytest.raises(ValueError, match=r"modality 'image' for this caption, got 9 frame"):
        verify("a red circle", render_video(RIGHT))
    with pytest.raises(ValueError, match="expected a caption of the small world"):
        verify("a dog", render((RED_CIRCLE,)))
    with pytest.raises(ValueError, match=r"expected uint8 \[H, W, 3\]"):
        verify("a red circle", render((RED_CIRCLE,)) / 255)


def test_every_color_differs_from_every_other():
    for color in COLORS:
        image = render((Thing("square", color, 16, 16, 5),))
        met = [other for other in COLORS if not missed(Spec("color", (Noun("square", other),)), image)]
        assert met == [color]


def test_size_words_follow_the_radius():
    for radius, word in ((3.8, "small"), (5.5, "medium"), (8.0, "large")):
        (seen,) = read_samples(render((Thing("ring", "green", 16, 16, radius),))[None])[0][0]
        assert size_word(seen) == word
