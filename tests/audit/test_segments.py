import itertools

import cv2
import numpy as np
import pytest

from flexgym.audit.classifier import SHAPES, WEIGHTS
from flexgym.audit.segments import find
from tests.audit.drawings import COLORS, drawing


def kinds(image):
    return sorted(f"{thing.color} {thing.shape}" for thing in find([image])[0])


@pytest.mark.parametrize(("color", "shape"), list(itertools.product(COLORS, SHAPES)))
def test_each_kind_is_named(color, shape):
    assert kinds(drawing((color, shape, 16, 15, 6))) == [f"{color} {shape}"]


def test_places_and_areas_are_in_pixels():
    [[thing]] = find([drawing(("red", "square", 12, 20, 4))])
    assert (thing.x, thing.y) == pytest.approx((12, 20), abs=0.2)
    assert thing.area == pytest.approx(64, rel=0.1)
    assert thing.box == pytest.approx((8, 16, 16, 24), abs=0.3)


def test_images_of_other_sizes_are_resized():
    image = drawing(("red", "cross", 9, 9, 5), ("blue", "ring", 22, 22, 5))
    for side in (64, 48):
        resized = cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC)
        assert kinds(resized) == ["blue ring", "red cross"]


def test_specks_and_faint_traces_are_ignored():
    image = drawing(("red", "circle", 9, 9, 4)).copy()
    image[24:26, 24:27] = (0, 0, 255)
    image[20:28, 4:12] -= 15
    assert kinds(image) == ["red circle"]


def test_an_empty_image_shows_nothing():
    noise = np.random.default_rng(0).normal(240, 8, (32, 32, 3)).clip(0, 255).astype(np.uint8)
    assert find([drawing(), noise]) == [[], []]


@pytest.mark.parametrize(("other", "color"), [("red", "red"), ("red", "blue"), ("black", "purple")])
def test_things_that_touch_are_separated(other, color):
    image = drawing((color, "bar", 6, 16, 4.7), (other, "bar", 16.4, 16, 4.7))
    assert kinds(cv2.GaussianBlur(image, (0, 0), 0.7)) == sorted([f"{color} bar", f"{other} bar"])


def test_a_color_without_a_name_and_a_shape_without_a_name_are_none():
    for color in ((150, 90, 40), (128, 128, 0), (235, 140, 30), (0, 190, 200), (255, 60, 150)):
        assert kinds(drawing((color, "square", 16, 16, 6))) == ["None square"]
    image = drawing(("red", "bar", 16, 10, 10), ("red", "bar", 16, 20, 10), ("red", "square", 25, 16, 5))
    assert kinds(image) == ["red None"]


def test_a_thing_of_two_colors_is_one_thing():
    image = drawing(("red", "square", 16, 16, 5)).copy()
    image[10:22, 18:22] = COLORS["blue"]
    assert kinds(image) == ["red square"]


def test_the_weights_are_small():
    assert WEIGHTS.stat().st_size < 300_000
