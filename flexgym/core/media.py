"""Pictures and films of a run: labelled grids of samples, PNG, GIF and MP4."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from flexgym.core.errors import ConfigError
from flexgym.core.files import write_atomic

Pixels = NDArray[np.uint8]

_PAPER = (255, 255, 255)
_INK = (28, 32, 40)
_MUTED = (96, 104, 118)
_FRAME = {None: (206, 211, 219), True: (22, 150, 84), False: (208, 58, 52)}
_MARGIN = 14
_GAP = 10
_COLUMN_GAP = 18
_BORDER = 3
_CAPTION = 15
_LABEL = 13
_TITLE = 19
_MAX_CAPTION_LINES = 3
_LARGEST_TILE = 512
_EXACT_COLOURS = 32


@dataclass(frozen=True)
class GridRow:
    """The samples of one prompt in a grid.

    Attributes:
        caption: the prompt.
        samples: uint8 ``[N, H, W, 3]`` for images, ``[N, F, H, W, 3]`` for videos.
        labels: a short text under each sample, such as its score; empty for none.
        marks: frame colour of each sample: True green, False red, None grey; empty for grey.
    """

    caption: str
    samples: Pixels
    labels: tuple[str, ...] = ()
    marks: tuple[bool | None, ...] = ()


@dataclass(frozen=True)
class _Tile:
    """One sample and where its top left corner stands on the page."""

    sample: Pixels
    left: int
    top: int


def draw_grid(rows: Sequence[GridRow], *, title: str = "", tile: int = 128, columns: int = 1) -> Pixels:
    """One row of samples per prompt, its caption above it.

    Small samples are enlarged by a whole factor without smoothing, so that their pixels show as they are; samples above
    512 pixels are reduced.

    Args:
        rows: at least one; all images or all videos, and all of one height and width.
        title: a line at the top.
        tile: edge in pixels up to which a smaller sample is enlarged.
        columns: how many rows stand side by side, such as 6 where each prompt has one sample.

    Returns:
        uint8 ``[H, W, 3]``, for videos ``[F, H, W, 3]``; a shorter video rests on its last frame.

    Raises:
        ConfigError: no rows, wrong types or shapes, a number of labels or marks other than of samples, or no columns.
    """
    if columns < 1:
        raise ConfigError(f"grid: expected at least 1 column, got {columns}.")
    height, width, frames = _check_rows(rows)
    size = _tile_size(height, width, tile)
    page, tiles = _layout(rows, size, title, columns=columns)
    if frames is None:
        return _paste(page, tiles, size=size, frame=None)
    return np.stack([_paste(page, tiles, size=size, frame=frame) for frame in range(frames)])


def save_png(path: str | Path, image: Pixels) -> Path:
    """Write an image, whole or not at all.

    Args:
        path: the file; its folder is made when missing.
        image: uint8 ``[H, W, 3]``.
    """
    return _save(path, encode_png(image))


def save_gif(path: str | Path, frames: Pixels, *, fps: float = 8.0) -> Path:
    """Write an endless animation, whole or not at all.

    Args:
        path: the file; its folder is made when missing.
        frames: uint8 ``[F, H, W, 3]``.
        fps: frames per second; GIF counts in hundredths of a second.
    """
    return _save(path, encode_gif(frames, fps=fps))


def save_mp4(path: str | Path, frames: Pixels, *, fps: float = 8.0) -> Path:
    """Write an H.264 video that browsers play, whole or not at all.

    Args:
        path: the file; its folder is made when missing.
        frames: uint8 ``[F, H, W, 3]``; an odd height or width is padded by one row or column.
        fps: frames per second.
    """
    return _save(path, encode_mp4(frames, fps=fps))


def encode_png(image: Pixels) -> bytes:
    """``image``, uint8 ``[H, W, 3]``, as the bytes of a PNG file."""
    _check_pixels(image, 3, "image")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def encode_gif(frames: Pixels, *, fps: float = 8.0) -> bytes:
    """``frames``, uint8 ``[F, H, W, 3]``, as the bytes of a GIF file with one palette, so that nothing flickers.

    Raises:
        ConfigError: wrong type or shape, or ``fps`` not within (0, 50].
    """
    _check_pixels(frames, 4, "video")
    if not 0 < fps <= 50:
        raise ConfigError(f"fps: expected more than 0 and at most 50 for a GIF, got {fps}.")
    pages = _paletted(frames)
    buffer = io.BytesIO()
    duration = max(2, round(100 / fps)) * 10
    pages[0].save(buffer, "GIF", save_all=True, append_images=pages[1:], duration=duration, loop=0, optimize=False)
    return buffer.getvalue()


# Without looking ahead: what x264 plans from later frames can differ from call to call, and with it the file.
_H264 = {"crf": "14", "x264-params": "sync-lookahead=0:rc-lookahead=0:sliced-threads=0:mbtree=0"}


def encode_mp4(frames: Pixels, *, fps: float = 8.0) -> bytes:
    """``frames``, uint8 ``[F, H, W, 3]``, as the bytes of an MP4 file.

    Raises:
        ConfigError: wrong type or shape, or ``fps`` not positive.
    """
    import av  # opens codec libraries, which only those who write MP4 need

    _check_pixels(frames, 4, "video")
    if not fps > 0:
        raise ConfigError(f"fps: expected more than 0, got {fps}.")
    odd = ((0, 0), (0, frames.shape[1] % 2), (0, frames.shape[2] % 2), (0, 0))
    padded = np.pad(frames, odd, mode="edge")
    rate, buffer = Fraction(fps).limit_denominator(1000), io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options=_H264)
        stream.codec_context.thread_count = 1
        stream.height, stream.width = padded.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for number, frame in enumerate(padded):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            picture = picture.reformat(format=stream.pix_fmt)
            picture.pts, picture.time_base = number, 1 / rate
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return buffer.getvalue()


def _save(path: str | Path, data: bytes) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, data)
    return path


def _check_pixels(pixels: Pixels, dimensions: int, what: str) -> None:
    form = "[F, H, W, 3]" if dimensions == 4 else "[H, W, 3]"
    if pixels.dtype != np.uint8 or pixels.ndim != dimensions or pixels.shape[-1] != 3 or not pixels.size:
        raise ConfigError(f"{what}: expected uint8 {form}, got {pixels.dtype} {list(pixels.shape)}.")


def _check_rows(rows: Sequence[GridRow]) -> tuple[int, int, int | None]:
    """Height and width of the samples, and the longest number of frames (None for images)."""
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


def _tile_size(height: int, width: int, tile: int) -> tuple[int, int]:
    """Width and height of a sample on the page."""
    edge = max(height, width)
    if edge > _LARGEST_TILE:
        return max(1, width * _LARGEST_TILE // edge), max(1, height * _LARGEST_TILE // edge)
    factor = max(1, tile // edge)
    return width * factor, height * factor


def _layout(
    rows: Sequence[GridRow], size: tuple[int, int], title: str, *, columns: int
) -> tuple[Image.Image, list[_Tile]]:
    """The page with everything but the samples, and where those stand."""
    widest = max(len(row.samples) for row in rows)
    block = widest * (size[0] + 2 * _BORDER) + (widest - 1) * _GAP
    columns = min(columns, len(rows))
    inner = columns * block + (columns - 1) * _COLUMN_GAP
    heading = _wrap(title, _TITLE, inner) if title else []
    bands = [rows[start : start + columns] for start in range(0, len(rows), columns)]
    captions = [[_wrap(row.caption, _CAPTION, block) for row in band] for band in bands]
    texts = [max(map(len, lines)) * _line(_CAPTION) for lines in captions]
    strips = [max(_strip(size, row) for row in band) for band in bands]
    head = len(heading) * _line(_TITLE) + (_GAP if heading else 0)
    height = 2 * _MARGIN + head + sum(texts) + sum(strips) - _GAP
    page = Image.new("RGB", (inner + 2 * _MARGIN, height), _PAPER)
    draw = ImageDraw.Draw(page)
    _write(draw, heading, (_MARGIN, _MARGIN), size=_TITLE)
    top = _MARGIN + head
    tiles: list[_Tile] = []
    for band, lines, text, strip in zip(bands, captions, texts, strips, strict=True):
        for column, row in enumerate(band):
            left = _MARGIN + column * (block + _COLUMN_GAP)
            # Captions of unlike length end on one line, next to their samples.
            _write(draw, lines[column], (left, top + text - len(lines[column]) * _line(_CAPTION)), size=_CAPTION)
            tiles += _frame_row(draw, row, (left, top + text), size=size)
        top += text + strip
    return page, tiles


def _strip(size: tuple[int, int], row: GridRow) -> int:
    """Height of a row of samples with its labels and the gap below."""
    return size[1] + 2 * _BORDER + (_line(_LABEL) if row.labels else 0) + _GAP


def _frame_row(
    draw: ImageDraw.ImageDraw, row: GridRow, place: tuple[int, int], *, size: tuple[int, int]
) -> list[_Tile]:
    """Draw the frames and labels of one row, whose first frame's corner is ``place``; the samples come later."""
    tiles = []
    (start, top), (width, height) = place, size
    for index, sample in enumerate(row.samples):
        left = start + index * (width + 2 * _BORDER + _GAP)
        colour = _FRAME[row.marks[index] if row.marks else None]
        box = (left, top, left + width + 2 * _BORDER - 1, top + height + 2 * _BORDER - 1)
        draw.rectangle(box, outline=colour, width=_BORDER)
        tiles.append(_Tile(sample, left + _BORDER, top + _BORDER))
        if row.labels:
            text = _shorten(row.labels[index], _LABEL, width + 2 * _BORDER)
            offset = (width + 2 * _BORDER - _length(text, _LABEL)) / 2
            corner = (left + max(0.0, offset), top + height + 2 * _BORDER + 1)
            draw.text(corner, text, font=_font(_LABEL), fill=_MUTED)
    return tiles


def _paste(page: Image.Image, tiles: Sequence[_Tile], *, size: tuple[int, int], frame: int | None) -> Pixels:
    result = page.copy()
    for tile in tiles:
        pixels = tile.sample if frame is None else tile.sample[min(frame, len(tile.sample) - 1)]
        smaller = size[0] < pixels.shape[1]
        method = Image.Resampling.LANCZOS if smaller else Image.Resampling.NEAREST
        result.paste(Image.fromarray(pixels).resize(size, method), (tile.left, tile.top))
    return np.asarray(result)


def _paletted(frames: Pixels) -> list[Image.Image]:
    """Frames with one palette, so that a colour is the same in all of them, wherever it stands.

    Where at most 256 colours occur they stay as they are. Else the most frequent ones do, which are those of the page
    and its captions, and the others become near ones.
    """
    packed = frames.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    # One number per colour: sorting rows takes 30 times as long.
    values, counts = np.unique(packed, return_counts=True)
    exact = values if len(values) <= 256 else np.sort(values[np.argsort(-counts, kind="stable")[:_EXACT_COLOURS]])
    places = np.minimum(np.searchsorted(exact, packed), len(exact) - 1)
    is_exact = exact[places] == packed
    colours = _unpacked(exact).flatten().tolist()
    if not is_exact.all():
        # At most 2^20 pixels decide, which is enough for some 200 places.
        others = _unpacked(packed[~is_exact])
        others = others[:: 1 + (len(others) >> 20)]
        near = Image.fromarray(others[None]).quantize(256 - len(exact), method=Image.Quantize.MEDIANCUT)
        colours += near.getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours)
    pages = []
    for frame, place, kept in zip(frames, places, is_exact, strict=True):
        nearest = Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        # Pillow's search for the nearest colour is exact to a few levels only.
        page = Image.fromarray(np.where(kept, place, np.asarray(nearest)).astype(np.uint8))
        page.putpalette(colours)
        pages.append(page)
    return pages


def _unpacked(colours: NDArray[np.uint32]) -> Pixels:
    return np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=-1).astype(np.uint8)


def _write(draw: ImageDraw.ImageDraw, lines: Sequence[str], place: tuple[int, int], *, size: int) -> None:
    """Draw lines of text from ``place`` downwards."""
    left, top = place
    for line in lines:
        draw.text((left, top), line, font=_font(size), fill=_INK)
        top += _line(size)


def _wrap(text: str, size: int, width: int) -> list[str]:
    """Lines that fit into ``width`` pixels, at most three; the last one says by dots that there was more."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _length(longer, size) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    if len(lines) > _MAX_CAPTION_LINES:
        lines = [*lines[: _MAX_CAPTION_LINES - 1], " ".join(lines[_MAX_CAPTION_LINES - 1 :])]
    return [_shorten(line, size, width) for line in lines]


def _shorten(text: str, size: int, width: int) -> str:
    """``text``, cut and ended by dots where it is wider than ``width`` pixels."""
    if _length(text, size) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if _length(text[:middle].rstrip() + "...", size) <= width:
            low = middle
        else:
            high = middle - 1
    return text[:low].rstrip() + "..."


def _length(text: str, size: int) -> float:
    return _font(size).getlength(text)


def _line(size: int) -> int:
    return size + 7


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise ConfigError("captions need Pillow with FreeType; install Pillow from its wheel.")
    return font
