"""Scenes of colored shapes and their rendering to images.

Lengths are in pixels of a square canvas of `SIZE`; angles are in degrees. The radius of a thing is that of a circle of
about the same area, so shapes of the same radius cover about the same number of pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIZE = 32
FRAMES = 9
BACKGROUND = 240
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (222, 48, 48),
    "green": (44, 168, 72),
    "blue": (48, 88, 224),
    "yellow": (240, 196, 32),
    "purple": (150, 50, 190),
    "black": (40, 40, 48),
}

Array = NDArray[np.float32]
_PIXELS = np.arange(SIZE, dtype=np.float32) + 0.5


@dataclass(frozen=True)
class Thing:
    """One shape on the canvas: center ``(x, y)`` in pixels from the top left, radius in pixels, angle in degrees."""

    shape: str
    color: str
    x: float
    y: float
    radius: float
    angle: float = 0.0


Scene = tuple[Thing, ...]


@dataclass(frozen=True)
class Outline:
    """How a shape is drawn.

    Attributes:
        distance: signed distance to the outline of the shape with radius 1, from the distances ``dx`` and ``dy`` to its
            center; negative inside.
        symmetry: order of rotational symmetry; 0 if a rotation is invisible.
    """

    distance: Callable[[Array, Array], Array]
    symmetry: int


def _length(dx: Array, dy: Array) -> Array:
    length: Array = np.hypot(dx, dy)
    return length


def _box(dx: Array, dy: Array, half: tuple[float, float]) -> Array:
    return np.maximum(np.abs(dx) - half[0], np.abs(dy) - half[1])


def _triangle(dx: Array, dy: Array) -> Array:
    side: Array = np.maximum(dy, np.abs(dx) * 0.866 - dy * 0.5)
    return side - 0.78


OUTLINES = {
    "circle": Outline(lambda dx, dy: _length(dx, dy) - 1.0, 0),
    "square": Outline(lambda dx, dy: _box(dx, dy, (0.89, 0.89)), 4),
    "triangle": Outline(_triangle, 3),
    "cross": Outline(lambda dx, dy: np.minimum(_box(dx, dy, (0.41, 1.16)), _box(dx, dy, (1.16, 0.41))), 4),
    "ring": Outline(lambda dx, dy: np.abs(_length(dx, dy) - 0.87) - 0.29, 0),
    "bar": Outline(lambda dx, dy: _box(dx, dy, (1.4, 0.56)), 2),
}
SHAPES = tuple(OUTLINES)


def coverage(shape: str, dx: Array, dy: Array, *, radius: float | np.float32 | Array) -> Array:
    """Compute how much of each pixel a shape covers.

    Args:
        shape: one of `SHAPES`.
        dx: x distances of pixel centers from the shape's center, in any form that broadcasts with ``dy``.
        dy: y distances of pixel centers from the shape's center, positive downward.
        radius: radius in pixels, one number or one per shape.

    Returns:
        Coverage in ``[0, 1]``, computed from the signed distance to the outline, so edges are one pixel wide.
    """
    return np.clip(0.5 - OUTLINES[shape].distance(dx / radius, dy / radius) * radius, 0.0, 1.0)


def thing_mask(thing: Thing) -> Array:
    """Compute the coverage of the canvas by one thing, float32 ``[SIZE, SIZE]`` in ``[0, 1]``."""
    dx, dy = _PIXELS[None, :] - np.float32(thing.x), _PIXELS[:, None] - np.float32(thing.y)
    if thing.angle:
        c, s = np.float32(np.cos(np.deg2rad(thing.angle))), np.float32(np.sin(np.deg2rad(thing.angle)))
        dx, dy = c * dx + s * dy, c * dy - s * dx
    return coverage(thing.shape, dx, dy, radius=np.float32(thing.radius))


def render(scene: Scene) -> NDArray[np.uint8]:
    """Render a scene to an image, uint8 ``[SIZE, SIZE, 3]``; later things cover earlier ones."""
    image = np.full((SIZE, SIZE, 3), BACKGROUND, np.float32)
    for thing in scene:
        mask = thing_mask(thing)[..., None]
        image += mask * (np.asarray(COLORS[thing.color], np.float32) - image)
    return (image + 0.5).astype(np.uint8)


def render_video(scenes: Sequence[Scene]) -> NDArray[np.uint8]:
    """Render scenes to the frames of a video, uint8 ``[F, SIZE, SIZE, 3]``."""
    return np.stack([render(scene) for scene in scenes])
