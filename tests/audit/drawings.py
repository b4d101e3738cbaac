"""Drawings by Pillow, which share no code with the scenes of the world."""

import numpy as np
from PIL import Image, ImageDraw

COLORS = {
    "red": (215, 40, 60),
    "green": (40, 160, 60),
    "blue": (50, 80, 230),
    "yellow": (245, 205, 30),
    "purple": (140, 40, 180),
    "black": (30, 30, 30),
}
_SCALE = 8


def drawing(*things):
    """Draw things, each a color, a shape, a center and half a width in pixels; uint8 ``[32, 32, 3]``."""
    image = Image.new("RGB", (32 * _SCALE, 32 * _SCALE), (240, 240, 240))
    pen = ImageDraw.Draw(image)
    for color, shape, x, y, half in things:
        _draw(pen, shape, COLORS.get(color, color), np.array((x, y)) * _SCALE, half * _SCALE)
    return np.asarray(image.resize((32, 32), Image.Resampling.BOX))


def _draw(pen, shape, fill, center, half):
    x, y = center
    if shape == "circle":
        pen.ellipse((x - half, y - half, x + half, y + half), fill=fill)
    elif shape == "ring":
        pen.ellipse((x - half, y - half, x + half, y + half), outline=fill, width=int(half / 2))
    elif shape == "triangle":
        pen.polygon([(x - half, y + 0.85 * half), (x + half, y + 0.85 * half), (x, y - 0.85 * half)], fill=fill)
    else:
        for width, height in {"square": [(1, 1)], "bar": [(1, 0.4)], "cross": [(1, 0.35), (0.35, 1)]}[shape]:
            pen.rectangle((x - half * width, y - half * height, x + half * width, y + half * height), fill=fill)


def video(*frames):
    """Draw the frames of a video, each a list of things; uint8 ``[F, 32, 32, 3]``."""
    return np.stack([drawing(*things) for things in frames])


def moving(color, shape, *, start, end, half=4.5, frames=9):
    """Return one thing per frame that moves from one place to another."""
    places = np.linspace(start, end, frames)
    return [(color, shape, *place, half) for place in places]
