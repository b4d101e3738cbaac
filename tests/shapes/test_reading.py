from __future__ import annotations

import numpy as np
import pytest

from flexgym.shapes.reading import read_frames, read_groups, read_sample, read_samples
from flexgym.shapes.sampling import sample_clip, sample_scene, sample_spec
from flexgym.shapes.scenes import BACKGROUND, COLORS, SHAPES, SYMMETRY, Thing, render, render_video


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return np.stack([render(sample_scene(rng, sample_spec(rng, "image"))) for _ in range(70)])


@pytest.fixture(scope="module")
def videos():
    rng = np.random.default_rng(0)
    return np.stack([render_video(sample_clip(rng, sample_spec(rng, "video"))) for _ in range(9)])


@pytest.mark.parametrize("angle", [0.0, 13.0, 25.0])
@pytest.mark.parametrize("radius", [3.6, 5.5, 9.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_thing_is_read_as_it_was_drawn(shape, radius, angle):
    for color in COLORS:
        (seen,) = read_sample(render((Thing(shape, color, 16.7, 15.2, radius, angle),)))[0]
        assert (seen.shape, seen.color) == (shape, color)
        assert (seen.x, seen.y) == pytest.approx((16.7, 15.2), abs=0.2)
        assert seen.radius == pytest.approx(radius, rel=0.04)
        assert seen.fit > 0.9
        if SYMMETRY[shape]:
            period = 360 / SYMMETRY[shape]
            assert (seen.angle - angle + period / 2) % period - period / 2 == pytest.approx(0, abs=2.5)
        else:
            assert seen.angle == 0


def test_things_are_listed_from_left_to_right():
    places = {"circle": (25, 6, 4.5), "square": (6, 25, 4), "triangle": (16, 15, 3.7), "cross": (26, 25, 3.6)}
    things = tuple(Thing(shape, color, *places[shape]) for shape, color in zip(SHAPES, COLORS, strict=True))
    seen = read_sample(render(things))[0]
    assert [(thing.shape, thing.color) for thing in seen] == [
        ("square", "green"),
        ("triangle", "blue"),
        ("circle", "red"),
        ("cross", "yellow"),
    ]
    assert [thing.x for thing in seen] == pytest.approx([6, 16, 25, 26], abs=0.2)


def test_touching_things_of_two_colors_are_two():
    seen = read_sample(render((Thing("square", "red", 10, 16, 5), Thing("square", "blue", 19, 16, 5))))[0]
    assert [(thing.shape, thing.color) for thing in seen] == [("square", "red"), ("square", "blue")]


def test_specks_are_not_things():
    picture = render(())
    picture[4:7, 4:8] = COLORS["red"]
    assert read_sample(picture) == ((),)
    picture[4:8, 4:8] = COLORS["red"]
    (seen,) = read_sample(picture)[0]
    assert (seen.x, seen.y, seen.radius) == pytest.approx((6, 6, (16 / 3.15) ** 0.5))


def test_a_full_canvas_is_read_without_failing():
    full = np.full((32, 32, 3), COLORS["blue"], np.uint8)
    (seen,) = read_sample(full)[0]
    assert (seen.color, seen.x, seen.y) == ("blue", 16.0, 16.0)


def test_empty_pictures_hold_nothing():
    assert read_sample(render(())) == ((),)
    assert read_sample(render_video([()] * 4)) == ((), (), (), ())
    assert read_samples(np.full((2, 32, 32, 3), BACKGROUND, np.uint8)) == [((),), ((),)]
    assert read_frames(np.zeros((0, 32, 32, 3), np.uint8)) == ()


def test_a_batch_is_read_as_its_samples_are(images, videos):
    rng = np.random.default_rng(1)
    for samples in (images, videos):
        samples = np.clip(samples + rng.normal(0, 12, samples.shape), 0, 255).astype(np.uint8)
        for batched, alone in zip(read_samples(samples), map(read_sample, samples), strict=True):
            for frame, other in zip(batched, alone, strict=True):
                assert [(thing.shape, thing.color) for thing in frame] == [(t.shape, t.color) for t in other]
                measures = [[(t.x, t.y, t.radius, t.fit) for t in things] for things in (frame, other)]
                np.testing.assert_allclose(*measures, rtol=1e-5)


def test_a_window_holds_a_thing_however_long_it_is():
    picture = render(())
    picture[15:17, 1:31] = COLORS["red"]
    picture[2:6, 2:6] = COLORS["blue"]
    bar = next(thing for thing in read_sample(picture)[0] if thing.color == "red")
    assert (bar.x, bar.y) == (16.0, 16.0)
    # 60 of its pixels are long and thin; a circle of that area covers 2 rows of about 8.5 pixels of them.
    assert bar.fit < 0.35


def test_groups_of_several_sizes_are_read_together(images, videos):
    tall = np.pad(images[:3], ((0, 0), (0, 8), (0, 0), (0, 0)), constant_values=BACKGROUND)
    refused = images[:2].astype(np.float32)
    groups = [images[:2], videos[:3], tall, refused, images[2:7], images[0], images[:0]]
    found = read_groups(groups)
    assert found[3] is None
    assert found[5] is None
    assert found[6] == []
    for index in (0, 1, 2, 4):
        assert found[index] == read_samples(groups[index])
    assert [len(frame) for reading in found[2] for frame in reading] == [len(r[0]) for r in read_samples(images[:3])]


@pytest.mark.parametrize(
    "sample",
    [
        np.zeros((32, 32), np.uint8),
        np.zeros((32, 32, 4), np.uint8),
        np.zeros((3, 32, 32), np.uint8),
        np.zeros((0, 32, 32, 3), np.uint8),
        np.zeros((1, 1, 32, 32, 3), np.uint8),
        np.zeros((32, 32, 3), np.float32),
        np.zeros((32, 32, 3), np.int64),
    ],
)
def test_what_is_no_sample_is_refused(sample):
    with pytest.raises(ValueError, match=r"expected uint8 \[H, W, 3\] or \[F, H, W, 3\], got "):
        read_sample(sample)
    with pytest.raises(ValueError, match=r"expected uint8 \[G, H, W, 3\] or \[G, F, H, W, 3\], got "):
        read_samples(sample[None])
