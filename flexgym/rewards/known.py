"""Synthetic samples that are known to be good or bad, for `rewards.validate`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from flexgym.reward import KnownPair, Reward
from flexgym.shapes.scenes import Thing, render, render_video

_SIDE = 256


def known_pairs(reward: Reward) -> list[KnownPair]:
    """Return the pairs of a reward, or `fitting_and_other_prompt` if it has none of its own."""
    own = reward.known_pairs()
    return fitting_and_other_prompt() if own is None else own


def flat_and_noise(*, reverse: bool = False) -> list[KnownPair]:
    """Return a flat gray image and white noise."""
    flat = np.full((_SIDE, _SIDE, 3), 128, np.uint8)
    pair = KnownPair("a flat image and noise", "a grey wall", flat, bad=noise(_SIDE, _SIDE))
    return [pair.reversed() if reverse else pair]


def still_and_noise(*, reverse: bool = False) -> list[KnownPair]:
    """Return a still video and one of white noise."""
    still = np.repeat(large(_scene("circle", "red"))[None], 8, axis=0)
    pair = KnownPair("a still video and noise", "a red circle", still, bad=noise(8, _SIDE, _SIDE))
    return [pair.reversed() if reverse else pair]


def moving_and_still() -> list[KnownPair]:
    """Return a circle that crosses the image and a still one."""
    things = [(Thing("circle", "red", 6 + 2 * frame, 16, 6),) for frame in range(9)]
    moving = np.stack([large(frame) for frame in render_video(things)])
    still = np.repeat(moving[:1], len(moving), axis=0)
    return [KnownPair("a moving and a still circle", "a red circle moving right", moving, bad=still)]


def smooth_and_jumping() -> list[KnownPair]:
    """Return a circle that moves smoothly and scenes that change at each frame."""
    smooth = np.stack([large(_scene("circle", "red", x=14 + frame // 4)) for frame in range(8)])
    kinds = ("circle", "square", "triangle")
    jumping = np.stack(
        [
            large(_scene(kinds[frame % 3], ("red", "blue", "green")[frame % 3], x=8 + 5 * (frame % 4)))
            for frame in range(8)
        ]
    )
    return [KnownPair("smooth motion and jumps", "a red circle", smooth, bad=jumping)]


def fitting_and_other_prompt() -> list[KnownPair]:
    """Return images of the prompt and images of something else."""
    circle, square = large(_scene("circle", "red")), large(_scene("square", "blue"))
    return [
        KnownPair("the shape of the prompt and another", "a red circle", circle, bad=square),
        KnownPair("the same images, the other prompt", "a blue square", square, bad=circle),
        KnownPair("the shape of the prompt and noise", "a red circle", circle, bad=noise(_SIDE, _SIDE)),
    ]


def landscape_and_noise() -> list[KnownPair]:
    """Return a soft landscape of hills and sky, and white noise."""
    heights, widths = np.mgrid[0:_SIDE, 0:_SIDE] / _SIDE
    sky = np.stack([90 + 120 * heights, 140 + 70 * heights, 235 - 30 * heights], axis=-1)
    hills = np.stack([40 + 60 * heights, 110 + 40 * heights, 50 + 20 * heights], axis=-1)
    ridge = 0.6 + 0.12 * np.sin(5 * widths) + 0.04 * np.sin(17 * widths)
    landscape = np.where((heights > ridge)[..., None], hills, sky).astype(np.uint8)
    return [KnownPair("a landscape and noise", "green hills under a blue sky", landscape, bad=noise(_SIDE, _SIDE))]


def written_and_other_text() -> list[KnownPair]:
    """Return a sign with the text of the prompt and one with another text."""
    return [KnownPair("the text and another", 'a sign that says "Open today"', sign("Open today"), bad=sign("Fish 42"))]


def sign(text: str) -> NDArray[np.uint8]:
    """Return black text on white, uint8 ``[128, 512, 3]``."""
    page = Image.new("RGB", (512, 128), "white")
    ImageDraw.Draw(page).text((40, 34), text, font=ImageFont.load_default(52), fill="black")
    return np.asarray(page)


def noise(*size: int) -> NDArray[np.uint8]:
    """Return white noise, uint8 ``[*size, 3]``."""
    return np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)


def large(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a small image enlarged to 256 pixels."""
    return np.asarray(Image.fromarray(image).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC))


def _scene(shape: str, color: str, *, x: int = 16) -> NDArray[np.uint8]:
    return render((Thing(shape, color, x, 16, 7),))
