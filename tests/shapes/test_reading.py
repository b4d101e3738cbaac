from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from flexgym.shapes.reading import OTHER, read_frames, read_groups, read_sample, read_samples
from flexgym.shapes.sampling import RADII, draw_clip, draw_scene, draw_spec
from flexgym.shapes.scenes import BACKGROUND, COLORS, OUTLINES, SHAPES, Thing, render, render_video
from tests.shapes.draws import SPOILS, clean, compressed


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return np.stack([render(draw_scene(rng, draw_spec(rng, "image", "training"))) for _ in range(70)])


@pytest.fixture(scope="module")
def videos():
    rng = np.random.default_rng(0)
    return np.stack([render_video(draw_clip(rng, draw_spec(rng, "video", "training"))) for _ in range(9)])


@pytest.mark.parametrize("angle", [0.0, 13.0, 25.0])
@pytest.mark.parametrize("radius", [3.0, 5.5, 9.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_thing_is_read_as_it_was_drawn(shape, radius, angle):
    for color in COLORS:
        (seen,) = read_sample(render((Thing(shape, color, 16.7, 15.2, radius, angle),)))[0]
        assert (seen.shape, seen.color) == (shape, color)
        assert (seen.x, seen.y) == pytest.approx((16.7, 15.2), abs=0.2)
        assert seen.radius == pytest.approx(radius, rel=0.04)
        assert seen.fit > 0.9
        if OUTLINES[shape].symmetry:
            period = 360 / OUTLINES[shape].symmetry
            assert (seen.angle - angle + period / 2) % period - period / 2 == pytest.approx(0, abs=2.5)
        else:
            assert seen.angle == 0


def test_things_are_listed_from_left_to_right():
    places = ((25, 6, 4.5), (5, 26, 3.6), (15, 15, 3.7), (26, 25, 3.6), (6, 6, 3.2), (16, 27, 3))
    kinds = [*zip(SHAPES, COLORS, strict=True)]
    seen = read_sample(render(tuple(Thing(*kind, *place) for kind, place in zip(kinds, places, strict=True))))[0]
    assert [(thing.shape, thing.color) for thing in seen] == [kinds[index] for index in (1, 4, 2, 5, 0, 3)]
    assert [thing.x for thing in seen] == pytest.approx([5, 6, 15, 16, 25, 26], abs=0.2)


@pytest.mark.parametrize("spoil", SPOILS)
def test_touching_things_of_two_colors_are_two(spoil):
    pairs = [*itertools.permutations(COLORS, 2)]
    images = [render((Thing("square", one, 9.7, 16, 5), Thing("square", two, 18.6, 17, 5))) for one, two in pairs]
    for pair, (seen,) in zip(pairs, read_samples(spoil(np.stack(images))), strict=True):
        assert [(thing.shape, thing.color) for thing in seen] == [("square", color) for color in pair]


@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("shape", SHAPES)
def test_edges_are_no_things_of_another_color(shape, spoil):
    rng = np.random.default_rng(4)
    colors = list(COLORS) * 12
    places = 16 + rng.uniform(-4, 4, (len(colors), 2))
    # Compression blurs the colors of small rings, which are about two pixels wide, over their holes.
    radii = rng.uniform(*RADII["pair" if spoil is compressed else "several"], len(colors))
    things = [Thing(shape, color, x, y, r) for color, (x, y), r in zip(colors, places, radii, strict=True)]
    read = [reading[0] for reading in read_samples(spoil(np.stack([render((thing,)) for thing in things])))]
    assert [[seen.color for seen in frame] for frame in read] == [[color] for color in colors]
    assert np.mean([frame[0].shape == shape for frame in read]) >= (1.0 if spoil is clean else 0.97)
    assert min(frame[0].fit for frame in read) > (0.95 if spoil is clean else 0.8)


def test_a_hole_is_not_filled():
    (ring,), (circle,) = (read_sample(render((Thing(shape, "blue", 16, 16, 8),)))[0] for shape in ("ring", "circle"))
    assert (ring.shape, circle.shape) == ("ring", "circle")
    assert ring.radius == pytest.approx(circle.radius, rel=0.02)
    framed = read_sample(render((Thing("ring", "blue", 16, 16, 10), Thing("circle", "yellow", 16, 16, 3.5))))[0]
    assert {(thing.shape, thing.color) for thing in framed} == {("ring", "blue"), ("circle", "yellow")}


@pytest.mark.parametrize("angle", range(0, 180, 15))
def test_a_long_bar_is_read_at_every_angle(angle):
    (seen,) = read_sample(render((Thing("bar", "black", 16, 16, 8.4, angle),)))[0]
    assert (seen.shape, seen.color) == ("bar", "black")
    assert seen.fit > 0.98
    assert (seen.angle - angle + 90) % 180 - 90 == pytest.approx(0, abs=1)


def test_specks_are_not_things():
    image = render(())
    image[4:7, 4:8] = COLORS["red"]
    assert read_sample(image) == ((),)
    image[4:8, 4:8] = COLORS["red"]
    (seen,) = read_sample(image)[0]
    assert (seen.x, seen.y, seen.radius) == pytest.approx((6, 6, (16 / 3.15) ** 0.5))


@pytest.mark.parametrize(
    ("value", "color"),
    [
        ((133, 108, 60), OTHER),  # brown, between red and green
        ((110, 110, 20), OTHER),
        ((190, 150, 20), "yellow"),
        ((120, 20, 20), "red"),
        ((10, 80, 30), "green"),
        ((20, 30, 110), "blue"),
        ((70, 20, 90), "purple"),
        ((0, 0, 0), "black"),
    ],
)
def test_dark_colors_keep_their_hue_unless_they_are_brown(value, color):
    image = render(())
    image[10:20, 10:20] = value
    (seen,) = read_sample(image)[0]
    assert (seen.shape, seen.color) == ("square", color)


def test_a_full_canvas_is_read_without_failing():
    full = np.full((32, 32, 3), COLORS["blue"], np.uint8)
    (seen,) = read_sample(full)[0]
    assert (seen.color, seen.x, seen.y) == ("blue", 16.0, 16.0)


def test_empty_images_hold_nothing():
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
    image = render(())
    image[15:17, 1:31] = COLORS["red"]
    image[2:6, 2:6] = COLORS["blue"]
    bar = next(thing for thing in read_sample(image)[0] if thing.color == "red")
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


@pytest.mark.benchmark
def test_time_per_image():
    rng = np.random.default_rng(0)
    images = np.stack([render(draw_scene(rng, draw_spec(rng, "image", "training"))) for _ in range(512)])
    times = []
    for _ in range(15):
        start = time.process_time()
        read_frames(images)
        times.append(time.process_time() - start)
    print(f"{min(times) / len(images) * 1e6:.0f} us per image")
