from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from scipy import ndimage

from flexgym.shapes.captions import IMAGE_CATEGORIES, VIDEO_CATEGORIES, Noun, Spec, phrasings, specs
from flexgym.shapes.reading import read_samples
from flexgym.shapes.sampling import sample_clip, sample_scene, wrong_spec
from flexgym.shapes.scenes import COLORS, FRAMES, SHAPES, Thing, render, render_video
from flexgym.shapes.verifier import SIZE_BORDER, check, verify

DRAWN = {"image": 50, "video": 12}
DRAWINGS = [
    (kind, category, split)
    for kind in ("image", "video")
    for split in ("training", "rich", "held_out")
    for category in specs(kind, split)
]
STEPS = np.linspace(8, 24, FRAMES)


@cache
def drawn(kind, category, split):
    """Specs, the scenes or clips drawn for them, and their pixels."""
    rng = np.random.default_rng(11)
    members = specs(kind, split)[category]
    chosen = [members[rng.integers(len(members))] for _ in range(DRAWN[kind])]
    draw, paint = (sample_scene, render) if kind == "image" else (sample_clip, render_video)
    scenes = [draw(rng, spec) for spec in chosen]
    return chosen, scenes, np.stack([paint(scene) for scene in scenes])


def clean(samples):
    return samples


def blurred(samples):
    sigma = (0.0,) * (samples.ndim - 3) + (0.6, 0.6, 0.0)
    return ndimage.gaussian_filter(samples.astype(np.float32), sigma).round().astype(np.uint8)


def noisy(samples):
    noise = np.random.default_rng(2).normal(0, 10, samples.shape)
    return np.clip(samples + noise, 0, 255).round().astype(np.uint8)


SPOILT = [
    (*drawing, spoil)
    for drawing in DRAWINGS
    for spoil in ((clean, blurred, noisy) if drawing[2] != "rich" else (clean,))
]


@pytest.mark.parametrize(("kind", "category", "split", "spoil"), SPOILT)
def test_what_was_drawn_is_accepted(kind, category, split, spoil):
    chosen, _, samples = drawn(kind, category, split)
    verdicts = [check(spec, reading) for spec, reading in zip(chosen, read_samples(spoil(samples)), strict=True)]
    assert np.mean([verdict.satisfied for verdict in verdicts]) >= 0.98
    assert all(verdict.score == 1.0 for verdict in verdicts if verdict.satisfied)


def also_true(spec, scene):
    """Whether another caption is true of a scene too: one that says less, nouns the other way round, or a diagonal."""
    if spec.category in ("object", "colours", "counting"):
        noun = spec.nouns[0]
        sizes = ["large" if thing.radius > SIZE_BORDER else "small" for thing in scene]
        looks = all(thing.shape == noun.shape and noun.color in (None, thing.color) for thing in scene)
        return looks and len(scene) == noun.count and all(noun.size in (None, size) for size in sizes)
    if spec.category not in ("two_objects", "attribution", "position"):
        return False
    things = {thing.shape: thing for thing in scene}
    if set(things) != {noun.shape for noun in spec.nouns}:
        return False
    first, second = (things[noun.shape] for noun in spec.nouns)
    dx, dy = second.x - first.x, second.y - first.y
    along = {None: 1.0, "left of": dx, "right of": -dx, "above": dy, "below": -dy}[spec.relation]
    return along > 0 and all(noun.color in (None, things[noun.shape].color) for noun in spec.nouns)


@pytest.mark.parametrize(("kind", "category", "split"), DRAWINGS)
def test_wrong_captions_are_rejected(kind, category, split):
    rng = np.random.default_rng(3)
    rejected = []
    for spec, scene, reading in zip(*drawn(kind, category, split)[:2], readings(kind, category, split), strict=True):
        wrong = [wrong_spec(rng, spec) for _ in range(4)]
        rejected += [not check(other, reading).satisfied for other in wrong if not also_true(other, scene)]
    assert len(rejected) > DRAWN[kind]
    assert np.mean(rejected) >= 0.97


@cache
def readings(kind, category, split):
    return read_samples(drawn(kind, category, split)[2])


def moving(xs, ys=16.0, *, shape="circle", color="red", radius=5.0, angle=0.0):
    columns = np.broadcast_arrays(xs, ys, radius, angle, np.zeros(FRAMES))[:4]
    return [(Thing(shape, color, *map(float, row)),) for row in zip(*columns, strict=True)]


def missed(caption, sample):
    return {key for key, met in verify(caption, sample).constraints.items() if not met}


RED_CIRCLE = Thing("circle", "red", 9, 16, 5)
BLUE_CROSS = Thing("cross", "blue", 24, 16, 5)
BLUE_SQUARE = Thing("square", "blue", 24, 16, 5)
GREEN_CROSS = Thing("cross", "green", 24, 16, 5)
TWO_CIRCLES = (RED_CIRCLE, Thing("circle", "red", 24, 16, 5))


@pytest.mark.parametrize(
    ("caption", "scene", "expected"),
    [
        ("a red circle", (RED_CIRCLE,), set()),
        # a missing thing, and one too many
        ("a red circle", (), {"count 1", "1 shape circle", "1 colour red"}),
        ("a circle and a cross", (RED_CIRCLE,), {"count 2", "2 shape cross"}),
        ("two circles", (RED_CIRCLE,), {"count 2"}),
        ("three circles", TWO_CIRCLES, {"count 3"}),
        ("a red circle", (RED_CIRCLE, BLUE_CROSS), {"count 1"}),
        ("two circles", (*TWO_CIRCLES, Thing("circle", "red", 16, 26, 4)), {"count 2"}),
        # color, shape, size
        ("a blue circle", (RED_CIRCLE,), {"1 colour blue"}),
        ("a red square", (RED_CIRCLE,), {"1 shape square"}),
        ("two squares", (BLUE_SQUARE, RED_CIRCLE), {"1 shape square"}),
        ("two blue circles", TWO_CIRCLES, {"1 colour blue"}),
        ("two red circles", (RED_CIRCLE, Thing("circle", "blue", 24, 16, 5)), {"1 colour red"}),
        ("a large circle", (RED_CIRCLE,), {"1 size large"}),
        ("a small blue circle", (Thing("circle", "red", 16, 16, 8),), {"1 size small", "1 colour blue"}),
        ("a small circle", (Thing("circle", "red", 16, 16, 8),), {"1 size small"}),
        ("a red circle and a blue cross", (RED_CIRCLE, BLUE_SQUARE), {"2 shape cross"}),
        ("a red circle and a blue cross", (RED_CIRCLE, GREEN_CROSS), {"2 colour blue"}),
        # colors bound to the wrong things
        ("a blue circle and a red cross", (RED_CIRCLE, BLUE_CROSS), {"1 colour blue", "2 colour red"}),
        # relations
        ("a circle left of a cross", (RED_CIRCLE, BLUE_CROSS), set()),
        ("a circle right of a cross", (RED_CIRCLE, BLUE_CROSS), {"right of"}),
        ("a cross left of a circle", (RED_CIRCLE, BLUE_CROSS), {"left of"}),
        ("a circle above a cross", (RED_CIRCLE, BLUE_CROSS), {"above"}),
        ("a circle below a cross", (RED_CIRCLE, BLUE_CROSS), {"below"}),
        ("a circle left of a cross", (RED_CIRCLE,), {"count 2", "2 shape cross", "left of"}),
    ],
)
def test_image_constraints_by_hand(caption, scene, expected):
    assert missed(caption, render(scene)) == expected


def test_things_are_matched_so_that_most_is_met():
    # The red circle on the right is the first noun although the blue circle comes first from the left.
    scene = (Thing("circle", "blue", 8, 16, 5), Thing("circle", "red", 24, 16, 5))
    spec = Spec("position", (Noun("circle", "red"), Noun("circle")), "right of")
    assert verify(spec, render(scene)).satisfied
    assert not verify(Spec("position", spec.nouns, "left of"), render(scene)).satisfied


@pytest.mark.parametrize("caption", ["a red circle", "a green circle", "two circles", "a circle and a square"])
def test_a_blob_of_two_colors_is_neither(caption):
    blob = render((Thing("circle", "red", 16, 16, 8),))
    right = render((Thing("circle", "green", 16, 16, 8),))
    blob[:, 16:] = right[:, 16:]
    assert not verify(caption, blob).satisfied


def test_a_shapeless_blob_has_no_shape():
    picture = render(())
    picture[6:26, 6:10] = picture[22:26, 6:26] = COLORS["red"]
    for shape in SHAPES:
        assert missed(Spec("colours", (Noun(shape, "red"),)), picture) == {f"1 shape {shape}"}


@pytest.mark.parametrize("category", IMAGE_CATEGORIES)
def test_an_empty_picture_meets_nothing(category):
    for spec in specs("image", "training")[category][:10]:
        verdict = verify(spec, render(()))
        assert verdict.score == 0.0
        assert not verdict.satisfied


@pytest.mark.parametrize("category", VIDEO_CATEGORIES)
def test_an_empty_video_meets_nothing(category):
    for spec in specs("video", "training")[category][:10]:
        assert verify(spec, render_video([()] * FRAMES)).score == 0.0


RIGHT, STILL = moving(STEPS), moving(16.0)
FALLING = moving(16.0, STEPS)
BOUNCE = moving(16.0, 24 - 16 * np.linspace(-1, 1, FRAMES) ** 2)
GROWING = moving(16.0, radius=np.linspace(4, 8, FRAMES))
TURNING = moving(16.0, shape="square", radius=7.0, angle=np.linspace(0, 72, FRAMES))
PASSING = [(*moved, Thing("square", "blue", 16, 25, 4.8)) for moved in moving(STEPS, 8.0)]
PAIR_MOVING = [(a, Thing("square", "blue", a.x, 25, 4.8)) for (a,) in moving(STEPS, 8.0)]
ORDER = [(RED_CIRCLE, BLUE_SQUARE)[: 1 + (frame >= 4)] for frame in range(FRAMES)]
OTHER_ORDER = [(BLUE_SQUARE, RED_CIRCLE)[: 1 + (frame >= 4)] for frame in range(FRAMES)]
VANISHING = [(RED_CIRCLE,)] * 3 + [(RED_CIRCLE, BLUE_SQUARE)] * 3 + [(RED_CIRCLE,)] * 3


@pytest.mark.parametrize(
    ("caption", "clip", "expected"),
    [
        ("a red circle moving right", RIGHT, set()),
        ("a red circle moving right", STILL, {"motion right"}),
        ("a red circle moving right", RIGHT[::-1], {"motion right"}),
        ("a red circle moving right", FALLING, {"motion right"}),
        ("a red circle moving down", FALLING, set()),
        ("a red circle moving up", FALLING, {"motion up"}),
        ("a blue circle moving right", RIGHT, {"1 colour blue"}),
        ("a red square moving right", RIGHT, {"1 shape square"}),
        ("a red circle moving right", PAIR_MOVING, {"count 1"}),
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
        ("a red circle passing a blue square", PASSING, set()),
        ("a red circle passing a blue square", PASSING[::-1], set()),
        ("a red circle passing a blue square", PASSING[:1] * FRAMES, {"motion passing"}),
        ("a blue square passing a red circle", PASSING, {"motion passing"}),
        ("a red circle passing a blue square", PAIR_MOVING, {"motion passing"}),
        ("a red circle passing a blue square", RIGHT, {"count 2", "2 shape square", "2 colour blue", "motion passing"}),
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


def test_a_flicker_is_forgiven_and_flickering_is_not():
    wrong = (Thing("circle", "blue", 16, 16, 5),)
    once = RIGHT[:4] + moving(STEPS, color="blue")[4:5] + RIGHT[5:]
    often = [wrong if frame % 2 else RIGHT[frame] for frame in range(FRAMES)]
    assert verify("a red circle moving right", render_video(once)).satisfied
    assert "1 colour red" in missed("a red circle moving right", render_video(often))


def test_score_is_the_share_of_constraints():
    verdict = verify("a red circle and a blue cross", render((RED_CIRCLE, GREEN_CROSS)))
    assert dict(verdict.constraints) == {
        "count 2": True,
        "1 shape circle": True,
        "1 colour red": True,
        "2 shape cross": True,
        "2 colour blue": False,
    }
    assert verdict.score == 0.8
    assert not verdict.satisfied


def test_every_caption_of_a_spec_gives_one_verdict():
    for drawing in DRAWINGS:
        chosen, _, samples = drawn(*drawing)
        assert len({tuple(verify(text, samples[0]).constraints.items()) for text in phrasings(chosen[0])}) == 1


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
        picture = render((Thing("square", color, 16, 16, 5),))
        met = [other for other in COLORS if not missed(Spec("colours", (Noun("square", other),)), picture)]
        assert met == [color]
