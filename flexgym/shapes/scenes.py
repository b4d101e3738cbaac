"""Scenes of colored shapes and their rendering to images.

Lengths are in pixels of a square canvas of `SIZE`; angles are in degrees. The radius of an object is that of a circle
of about the same area, so shapes of the same radius cover about the same number of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIZE = 32
FRAMES = 9
BACKGROUND = 240
SHAPES = ("circle", "square", "triangle", "cross")
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (222, 48, 48),
    "green": (44, 168, 72),
    "blue": (48, 88, 224),
    "yellow": (240, 196, 32),
}
SYMMETRY = {"circle": 0, "square": 4, "triangle": 3, "cross": 4}
"""Order of rotational symmetry of each shape; 0 if a rotation is invisible."""

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


def coverage(
    shape: str, dx: NDArray[np.float32], dy: NDArray[np.float32], *, radius: float | NDArray[np.float32]
) -> NDArray[np.float32]:
    """Compute how much of each pixel a shape covers.

    Args:
        shape: one of `SHAPES`.
        dx: x distances of pixel centers from the shape's center, in any shape that broadcasts with ``dy``.
        dy: y distances of pixel centers from the shape's center, positive downward.
        radius: radius in pixels, one number or one per shape.

    Returns:
        Coverage in ``[0, 1]``, computed from the signed distance to the outline, so edges are one pixel wide.
    """
    if shape == "circle":
        distance = np.hypot(dx, dy) - radius
    elif shape == "square":
        distance = np.maximum(np.abs(dx), np.abs(dy)) - 0.89 * radius
    elif shape == "triangle":
        distance = np.maximum(dy, np.abs(dx) * 0.866 - dy * 0.5) - 0.78 * radius
    else:
        arm, half_width = 1.16 * radius, 0.41 * radius
        upright = np.maximum(np.abs(dx) - half_width, np.abs(dy) - arm)
        lying = np.maximum(np.abs(dx) - arm, np.abs(dy) - half_width)
        distance = np.minimum(upright, lying)
    return np.clip(0.5 - distance, 0.0, 1.0)


def thing_mask(thing: Thing) -> NDArray[np.float32]:
    """Compute the coverage of the canvas by one object, float32 ``[SIZE, SIZE]`` in ``[0, 1]``."""
    dx, dy = _PIXELS[None, :] - np.float32(thing.x), _PIXELS[:, None] - np.float32(thing.y)
    if thing.angle:
        c, s = np.cos(np.deg2rad(thing.angle)), np.sin(np.deg2rad(thing.angle))
        dx, dy = c * dx + s * dy, c * dy - s * dx
    return coverage(thing.shape, dx, dy, radius=thing.radius)


def render(scene: Scene) -> NDArray[np.uint8]:
    """Render a scene to an image, uint8 ``[SIZE, SIZE, 3]``; later objects cover earlier ones."""
    image = np.full((SIZE, SIZE, 3), BACKGROUND, np.float32)
    for thing in scene:
        mask = thing_mask(thing)[..., None]
        image += mask * (np.asarray(COLORS[thing.color], np.float32) - image)
    return (image + 0.5).astype(np.uint8)


def render_video(scenes: Sequence[Scene]) -> NDArray[np.uint8]:
    """Render scenes to the frames of a video, uint8 ``[F, SIZE, SIZE, 3]``."""
    return np.stack([render(scene) for scene in scenes])
