from __future__ import annotations

import numpy as np
import pytest

from flexgym.shapes.scenes import BACKGROUND, COLORS, OUTLINES, SHAPES, SIZE, Thing, render, render_video, thing_mask

RED, BLUE = COLORS["red"], COLORS["blue"]


@pytest.mark.parametrize("angle", [0.0, 17.0, 45.0])
@pytest.mark.parametrize("radius", [4.0, 6.0, 8.5])
def test_shapes_of_one_radius_have_one_area(radius, angle):
    areas = {shape: thing_mask(Thing(shape, "red", 16.3, 15.8, radius, angle)).sum() for shape in SHAPES}
    for area in areas.values():
        assert area == pytest.approx(np.pi * radius**2, rel=0.03), areas


@pytest.mark.parametrize(
    ("shape", "edge", "step"),
    [
        ("circle", 1.0, (1, 0)),
        ("square", 0.89, (0, -1)),
        ("triangle", 0.78, (0, 1)),
        ("cross", 1.16, (-1, 0)),
        ("ring", 1.16, (1, 0)),
        ("bar", 1.4, (1, 0)),
        ("bar", 0.56, (0, 1)),
    ],
)
def test_edges_are_one_pixel_wide(shape, edge, step):
    # The center of the pixel at (16.5, 16.5) lies half a pixel inside, on and half a pixel outside the outline.
    for inside, expected in ((0.5, 1.0), (0.25, 0.75), (0.0, 0.5), (-0.25, 0.25), (-0.5, 0.0)):
        distance = edge * 6.0 - inside
        thing = Thing(shape, "red", 16.5 - step[0] * distance, 16.5 - step[1] * distance, 6.0)
        assert thing_mask(thing)[16, 16] == pytest.approx(expected, abs=1e-5)


def test_square_by_hand():
    # 0.89 * r = 4: from 12.25 to 20.25, so that both outer pixels hold a part.
    row = thing_mask(Thing("square", "red", 16.25, 16.0, 4 / 0.89))[16]
    np.testing.assert_allclose(row[11:22], [0, 0.75, *[1] * 7, 0.25, 0], atol=1e-5)


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if OUTLINES[shape].symmetry])
def test_symmetry(shape):
    upright, full, half = (
        thing_mask(Thing(shape, "red", 16, 16, 6, angle))
        for angle in (0.0, 360 / OUTLINES[shape].symmetry, 180 / OUTLINES[shape].symmetry)
    )
    np.testing.assert_allclose(full, upright, atol=1e-3)
    assert np.abs(half - upright).sum() > 10


def test_image_holds_background_color_and_one_mixed_rim():
    image = render((Thing("circle", "red", 16, 16, 6),))
    assert image.dtype == np.uint8
    assert image.shape == (SIZE, SIZE, 3)
    assert tuple(image[16, 16]) == RED
    assert tuple(image[0, 0]) == (BACKGROUND,) * 3
    mixed = ~((image == RED).all(-1) | (image == BACKGROUND).all(-1))
    # As many rim pixels as the circumference has, give or take the corners of the grid.
    assert 2 * np.pi * 6 * 0.8 < mixed.sum() < 2 * np.pi * 6 * 1.5


def test_later_things_cover_earlier_ones():
    below, above = Thing("square", "red", 14, 16, 6), Thing("square", "blue", 18, 16, 6)
    assert tuple(render((below, above))[16, 16]) == BLUE
    assert tuple(render((above, below))[16, 16]) == RED
    assert tuple(render((below, above))[16, 10]) == RED


def test_images_depend_on_the_scene_alone():
    scene = (Thing("triangle", "green", 10.3, 12.1, 4.7, 33.0), Thing("cross", "yellow", 23.9, 20.2, 5.1))
    first = render(scene)
    np.random.seed(1)
    assert np.array_equal(render(scene), first)
    assert np.array_equal(render_video([(), scene]), np.stack([render(()), first]))


def test_a_ring_has_a_hole():
    image = render((Thing("ring", "purple", 16, 16, 6),))
    assert tuple(image[16, 16]) == (BACKGROUND,) * 3
    assert tuple(image[16, 16 + 5]) == COLORS["purple"]


def test_colors_are_far_from_each_other():
    values = [*COLORS.values(), (BACKGROUND,) * 3]
    for index, value in enumerate(values):
        assert min(np.linalg.norm(np.subtract(value, other)) for other in values[index + 1 :] or [(255, 0, 255)]) > 90
