"""Draw samples as labeled grids: captioned rows for the figures of a run, one group for `render` of an environment."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from flexgym.core.errors import ConfigError
from flexgym.core.images import Pixels

PAPER = (255, 255, 255)
GOOD, BAD = (22, 150, 84), (208, 58, 52)
"""Frame colors of samples that are marked as good or bad."""

_INK = (28, 32, 40)
_MUTED = (96, 104, 118)
_FRAME = {None: (206, 211, 219), True: GOOD, False: BAD}
_BORDER = 3
_COLUMN_GAP = 18
_TITLE_SIZE, _CAPTION_SIZE, _LABEL_SIZE = 19, 15, 13


@dataclass(frozen=True)
class GridRow:
    """The samples of one prompt in a grid.

    Attributes:
        caption: the prompt.
        samples: uint8 ``[N, H, W, 3]`` for images, ``[N, F, H, W, 3]`` for videos.
        labels: short text under each sample, such as its score; empty for none.
        marks: frame color of each sample: True green, False red, None gray; empty for gray.
    """

    caption: str
    samples: Pixels
    labels: tuple[str, ...] = ()
    marks: tuple[bool | None, ...] = ()


@dataclass(frozen=True)
class _Style:
    """Measures of a kind of grid, in pixels.

    Attributes:
        margin: around the page.
        gap: between samples.
        largest: longer side of a sample above which it is reduced.
        reserved_lines: minimum height of the title in lines, so that grids with different titles have one size.
        max_lines: maximum number of lines of a title or caption.
    """

    margin: int
    gap: int
    largest: int
    reserved_lines: int
    max_lines: int


_ROWS = _Style(margin=14, gap=10, largest=512, reserved_lines=0, max_lines=3)
_GROUP = _Style(margin=13, gap=6, largest=384, reserved_lines=2, max_lines=2)
_GROUP_TILE = 128


@dataclass(frozen=True)
class _Tile:
    """A sample and the position of its top left corner on the page."""

    sample: Pixels
    left: int
    top: int


def draw_grid(rows: Sequence[GridRow], *, title: str = "", tile: int = 128, columns: int = 1) -> Pixels:
    """Draw one row of samples per prompt, its caption above it.

    Small samples are enlarged by a whole factor without smoothing, so that their pixels show as they are; samples above
    512 pixels are reduced.

    Args:
        rows: at least one; all images or all videos, and all of one height and width.
        title: line at the top.
        tile: edge in pixels up to which a smaller sample is enlarged.
        columns: number of rows side by side, such as 6 where each prompt has one sample.

    Returns:
        uint8 ``[H, W, 3]``, for videos ``[F, H, W, 3]``; a shorter video holds its last frame.

    Raises:
        ConfigError: no rows, wrong types or shapes, a number of labels or marks other than of samples, or no columns.
    """
    if columns < 1:
        raise ConfigError(f"grid: expected at least 1 column, got {columns}.")
    height, width, frames = _check_rows(rows)
    size = _tile_size(height, width, tile=tile, largest=_ROWS.largest)
    page, tiles = _layout(rows, size, title, columns=columns, style=_ROWS)
    if frames is None:
        return _paste(page, tiles, size=size, frame=None)
    return np.stack([_paste(page, tiles, size=size, frame=frame) for frame in range(frames)])


def draw_group(samples: Pixels, title: str, rewards: NDArray[np.float32] | None = None) -> Pixels:
    """Draw the images of one group under its prompt, each with its index and reward.

    The size of the result depends on the size and the number of the images alone, so that the frames of a video fit
    together. Images below 128 pixels are enlarged by a whole factor without smoothing, those above 384 are reduced.

    Args:
        samples: uint8 ``[G, H, W, 3]``.
        title: text above them, shortened to two lines.
        rewards: ``[G]``; NaN means not scored. The best sample is marked unless all scores are equal.

    Returns:
        uint8 ``[height, width, 3]``.

    Raises:
        ConfigError: samples of another type or shape.
    """
    if samples.ndim != 4 or not samples.size:
        raise ConfigError(f"group: expected samples uint8 [G, H, W, 3], got {samples.dtype} {list(samples.shape)}.")
    labels = tuple(f"{index}{_reward_text(rewards, index)}" for index in range(len(samples)))
    best = _best(rewards)
    marks = tuple(True if index == best else None for index in range(len(samples)))
    columns = _columns(len(samples))
    parts = [slice(start, start + columns) for start in range(0, len(samples), columns)]
    rows = [GridRow("", samples[part], labels[part], marks[part]) for part in parts]
    height, width, _ = _check_rows(rows)
    edge = max(height, width)
    size = _tile_size(height, width, tile=edge * math.ceil(_GROUP_TILE / edge), largest=_GROUP.largest)
    page, tiles = _layout(rows, size, title, columns=1, style=_GROUP)
    return _paste(page, tiles, size=size, frame=None)


def _reward_text(rewards: NDArray[np.float32] | None, index: int) -> str:
    if rewards is None:
        return ""
    return ": unscored" if np.isnan(rewards[index]) else f": {rewards[index]:.3f}"


def _best(rewards: NDArray[np.float32] | None) -> int | None:
    """Return the index of the best sample; None if none is scored or all scores are equal."""
    if rewards is None or np.isnan(rewards).all() or np.nanmax(rewards) == np.nanmin(rewards):
        return None
    return int(np.nanargmax(rewards))


def _columns(count: int) -> int:
    """Return the number of columns with the fewest empty places in a grid at least as wide as high."""
    square = math.ceil(math.sqrt(count))
    return min(range(square, 2 * square + 1), key=lambda columns: (-count % columns, columns))


def _check_rows(rows: Sequence[GridRow]) -> tuple[int, int, int | None]:
    """Return height and width of the samples, and the largest number of frames (None for images)."""
    if not rows:
        raise ConfigError("grid: expected at least one row.")
    first = rows[0].samples
    for row in rows:
        samples = row.samples
        if samples.dtype != np.uint8 or samples.ndim not in (4, 5) or samples.shape[-1] != 3 or not samples.size:
            raise ConfigError(
                f"grid: expected samples uint8 [N, H, W, 3] or [N, F, H, W, 3], "
                f"got {samples.dtype} {list(samples.shape)}."
            )
        if samples.ndim != first.ndim or samples.shape[-3:] != first.shape[-3:]:
            raise ConfigError(f"grid: rows differ in form: {list(first.shape)} and {list(samples.shape)}.")
        for name, given in (("labels", row.labels), ("marks", row.marks)):
            if given and len(given) != len(samples):
                raise ConfigError(f"grid: expected {len(samples)} {name} for {row.caption!r}, got {len(given)}.")
    frames = max(row.samples.shape[1] for row in rows) if first.ndim == 5 else None
    return first.shape[-3], first.shape[-2], frames


def _tile_size(height: int, width: int, *, tile: int, largest: int) -> tuple[int, int]:
    """Return width and height of a sample on the page."""
    edge = max(height, width)
    if edge > largest:
        return max(1, width * largest // edge), max(1, height * largest // edge)
    factor = max(1, tile // edge)
    return width * factor, height * factor


def _layout(
    rows: Sequence[GridRow], size: tuple[int, int], title: str, *, columns: int, style: _Style
) -> tuple[Image.Image, list[_Tile]]:
    """Draw the page with everything but the samples, and return the samples with their positions."""
    widest = max(len(row.samples) for row in rows)
    block = widest * (size[0] + 2 * _BORDER) + (widest - 1) * style.gap
    columns = min(columns, len(rows))
    inner = columns * block + (columns - 1) * _COLUMN_GAP
    heading = _wrap(title, _TITLE_SIZE, inner, max_lines=style.max_lines)
    head_lines = max(len(heading), style.reserved_lines)
    head = head_lines * _line(_TITLE_SIZE) + (style.gap if head_lines else 0)
    bands = [rows[start : start + columns] for start in range(0, len(rows), columns)]
    captions = [[_wrap(row.caption, _CAPTION_SIZE, block, max_lines=style.max_lines) for row in band] for band in bands]
    texts = [max(map(len, lines)) * _line(_CAPTION_SIZE) for lines in captions]
    strips = [max(_strip(size, row, style.gap) for row in band) for band in bands]
    height = 2 * style.margin + head + sum(texts) + sum(strips) - style.gap
    page = Image.new("RGB", (inner + 2 * style.margin, height), PAPER)
    draw = ImageDraw.Draw(page)
    _write(draw, heading, (style.margin, style.margin), size=_TITLE_SIZE)
    top = style.margin + head
    tiles: list[_Tile] = []
    for band, lines, text, strip in zip(bands, captions, texts, strips, strict=True):
        for column, row in enumerate(band):
            left = style.margin + column * (block + _COLUMN_GAP)
            # Captions of different lengths end on one line, next to their samples.
            caption_top = top + text - len(lines[column]) * _line(_CAPTION_SIZE)
            _write(draw, lines[column], (left, caption_top), size=_CAPTION_SIZE)
            tiles += _frame_row(draw, row, (left, top + text), size=size, gap=style.gap)
        top += text + strip
    return page, tiles


def _strip(size: tuple[int, int], row: GridRow, gap: int) -> int:
    """Return the height of a row of samples with its labels and the gap below."""
    return size[1] + 2 * _BORDER + (_line(_LABEL_SIZE) if row.labels else 0) + gap


def _frame_row(
    draw: ImageDraw.ImageDraw, row: GridRow, place: tuple[int, int], *, size: tuple[int, int], gap: int
) -> list[_Tile]:
    """Draw the frames and labels of one row from the corner ``place``, and return its samples with their positions."""
    tiles = []
    (start, top), (width, height) = place, size
    outer = width + 2 * _BORDER
    for index, sample in enumerate(row.samples):
        left = start + index * (outer + gap)
        color = _FRAME[row.marks[index] if row.marks else None]
        box = (left, top, left + outer - 1, top + height + 2 * _BORDER - 1)
        draw.rectangle(box, outline=color, width=_BORDER)
        tiles.append(_Tile(sample, left + _BORDER, top + _BORDER))
        if row.labels:
            text = _shorten(row.labels[index], _LABEL_SIZE, outer)
            corner = (left + max(0.0, (outer - _length(text, _LABEL_SIZE)) / 2), top + height + 2 * _BORDER + 1)
            draw.text(corner, text, font=_font(_LABEL_SIZE), fill=_MUTED)
    return tiles


def _paste(page: Image.Image, tiles: Sequence[_Tile], *, size: tuple[int, int], frame: int | None) -> Pixels:
    """Return the page with its samples; of videos, with the given frame or their last one."""
    result = page.copy()
    for tile in tiles:
        pixels = tile.sample if frame is None else tile.sample[min(frame, len(tile.sample) - 1)]
        is_reduced = size[0] < pixels.shape[1]
        method = Image.Resampling.LANCZOS if is_reduced else Image.Resampling.NEAREST
        result.paste(Image.fromarray(pixels).resize(size, method), (tile.left, tile.top))
    return np.asarray(result)


def _write(draw: ImageDraw.ImageDraw, lines: Sequence[str], place: tuple[int, int], *, size: int) -> None:
    """Draw lines of text from ``place`` downwards."""
    left, top = place
    for line in lines:
        draw.text((left, top), line, font=_font(size), fill=_INK)
        top += _line(size)


def _wrap(text: str, size: int, width: int, *, max_lines: int) -> list[str]:
    """Split text into lines of at most ``width`` pixels; an ellipsis ends the last line if there was more."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _length(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > max_lines:
        lines = [*lines[: max_lines - 1], " ".join(lines[max_lines - 1 :])]
    return [_shorten(line, size, width) for line in lines]


def _shorten(text: str, size: int, width: int) -> str:
    """Cut text that is wider than ``width`` pixels, and end it with an ellipsis."""
    if _length(text, size) <= width:
        return text
    counts = range(1, len(text) + 1)
    fitting = bisect_right(counts, float(width), key=lambda count: _length(text[:count].rstrip() + "...", size))
    return text[:fitting].rstrip() + "..."


def _length(text: str, size: int) -> float:
    return _font(size).getlength(text)


def _line(size: int) -> int:
    """Return the height of a line of text."""
    return size + 7


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise ConfigError("captions need Pillow with FreeType; install Pillow from its wheel.")
    return font
