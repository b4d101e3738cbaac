"""A group as one picture: the prompt as title, the samples in a grid, index and reward under each."""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SMALLEST, LARGEST = 128, 384
"""Bounds of the longer side of a shown sample, in pixels."""
MARGIN, GAP = 16, 12
TITLE_SIZE, LABEL_SIZE = 20, 16
TITLE_LINES = 2
BACKGROUND, INK, FAINT, FRAME, BEST = (250, 250, 248), (28, 30, 34), (110, 114, 120), (205, 207, 210), (22, 130, 70)


def render_group(
    pictures: NDArray[np.uint8], title: str, rewards: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """Draw a group.

    The size depends on the pictures' size and number alone, so that the frames of a film fit together.

    Args:
        pictures: uint8 ``[G, H, W, 3]``.
        title: written above, on at most two lines.
        rewards: ``[G]``, written under each; NaN means not scored. The best one is marked.

    Returns:
        uint8 ``[height, width, 3]``.
    """
    shown = [_resize(picture) for picture in pictures]
    columns = _columns(len(shown))
    rows = math.ceil(len(shown) / columns)
    width, height = shown[0].size
    label_height, title_height = LABEL_SIZE + 8, TITLE_LINES * (TITLE_SIZE + 4) + 8
    canvas = Image.new(
        "RGB",
        (
            2 * MARGIN + columns * width + (columns - 1) * GAP,
            2 * MARGIN + title_height + rows * (height + label_height) + (rows - 1) * GAP,
        ),
        BACKGROUND,
    )
    draw = ImageDraw.Draw(canvas)
    for line, text in enumerate(_wrap(title, canvas.width - 2 * MARGIN)):
        draw.text((MARGIN, MARGIN + line * (TITLE_SIZE + 4)), text, fill=INK, font=_font(TITLE_SIZE))
    best = _best(rewards)
    for index, picture in enumerate(shown):
        row, column = divmod(index, columns)
        x = MARGIN + column * (width + GAP)
        y = MARGIN + title_height + row * (height + label_height + GAP)
        canvas.paste(picture, (x, y))
        draw.rectangle((x - 1, y - 1, x + width, y + height), outline=BEST if index == best else FRAME)
        if index == best:
            draw.rectangle((x - 2, y - 2, x + width + 1, y + height + 1), outline=BEST)
        reward = None if rewards is None else float(rewards[index])
        _label(draw, (x, y + height + 4), width, text=str(index), reward=reward, best=index == best)
    return np.asarray(canvas)


def _label(
    draw: ImageDraw.ImageDraw, at: tuple[int, int], width: int, *, text: str, reward: float | None, best: bool
) -> None:
    draw.text(at, text, fill=FAINT, font=_font(LABEL_SIZE))
    if reward is not None:
        value = "unscored" if math.isnan(reward) else f"{reward:.3f}"
        corner = (at[0] + width, at[1])
        draw.text(corner, value, fill=BEST if best else INK, font=_font(LABEL_SIZE), anchor="ra")


def _best(rewards: NDArray[np.float32] | None) -> int | None:
    """The sample to mark; none when all scored ones are equal."""
    if rewards is None or np.isnan(rewards).all() or np.nanmax(rewards) == np.nanmin(rewards):
        return None
    return int(np.nanargmax(rewards))


def _resize(picture: NDArray[np.uint8]) -> Image.Image:
    """Small pictures keep their pixels as squares; large ones are smoothed down."""
    image = Image.fromarray(picture)
    longest = max(image.size)
    if longest < SMALLEST:
        factor = math.ceil(SMALLEST / longest)
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    if longest > LARGEST:
        size = (round(image.width * LARGEST / longest), round(image.height * LARGEST / longest))
        return image.resize(size, Image.Resampling.LANCZOS)
    return image


def _columns(count: int) -> int:
    """A grid no higher than wide with the fewest empty places."""
    square = math.ceil(math.sqrt(count))
    return min(range(square, 2 * square + 1), key=lambda columns: (-count % columns, columns))


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _wrap(text: str, width: int) -> list[str]:
    """The text in lines that fit, cut off with an ellipsis after the last one."""
    font = _font(TITLE_SIZE)
    words = text.split()
    lines = [""]
    for position, word in enumerate(words):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        elif len(lines) < TITLE_LINES:
            lines.append(word)
        else:
            lines[-1] = " ".join([lines[-1], *words[position:]])
            break
    return [_shorten(line, width) for line in lines]


def _shorten(line: str, width: int) -> str:
    font = _font(TITLE_SIZE)
    if font.getlength(line) <= width:
        return line
    fitting = bisect_left(range(1, len(line)), True, key=lambda count: font.getlength(line[:count] + "...") > width)
    return line[:fitting].rstrip() + "..."
