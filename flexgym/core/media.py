"""Write images and videos as PNG, WebP, GIF and MP4."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexgym.core.errors import ConfigError
from flexgym.core.files import write_atomic
from flexgym.core.images import Pixels

_EXACT_COLORS = 32
# Without looking ahead: what x264 plans from later frames can differ from call to call, and with it the file.
_H264 = {"crf": "14", "x264-params": "sync-lookahead=0:rc-lookahead=0:sliced-threads=0:mbtree=0"}


def save_png(path: str | Path, image: Pixels) -> Path:
    """Write an image as PNG, atomically.

    Args:
        path: the file; its folder is created when missing.
        image: uint8 ``[H, W, 3]``.
    """
    return _save(path, encode_png(image))


def save_gif(path: str | Path, frames: Pixels, *, fps: float = 8.0) -> Path:
    """Write an endless GIF animation, atomically.

    Args:
        path: the file; its folder is created when missing.
        frames: uint8 ``[F, H, W, 3]``.
        fps: frames per second; GIF counts in hundredths of a second.
    """
    return _save(path, encode_gif(frames, fps=fps))


def encode_png(image: Pixels) -> bytes:
    """Encode an image, uint8 ``[H, W, 3]``, as PNG."""
    _check_pixels(image, 3, "image")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def encode_webp(image: Pixels, *, lossless: bool) -> bytes:
    """Encode an image, uint8 ``[H, W, 3]``, as WebP, exactly or for the eye."""
    _check_pixels(image, 3, "image")
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "WEBP", lossless=lossless, quality=50 if lossless else 82, method=2)
    return buffer.getvalue()


def encode_gif(frames: Pixels, *, fps: float = 8.0) -> bytes:
    """Encode frames, uint8 ``[F, H, W, 3]``, as GIF with one palette for all, so that colors do not flicker.

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


def encode_mp4(frames: Pixels, *, fps: float = 8.0) -> bytes:
    """Encode frames, uint8 ``[F, H, W, 3]``, as MP4.

    Raises:
        ConfigError: wrong type or shape, or ``fps`` not positive.
    """
    import av  # loads codec libraries, which only MP4 needs

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
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            image = image.reformat(format=stream.pix_fmt)
            image.pts, image.time_base = number, 1 / rate
            container.mux(stream.encode(image))
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


def _paletted(frames: Pixels) -> list[Image.Image]:
    """Convert frames to one palette, so that equal colors stay equal in all of them.

    Up to 256 colors are kept exactly. Of more, the 32 most frequent ones are, which are those of the page and its
    captions, and the others are replaced by similar ones.
    """
    packed = frames.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], dtype=np.uint32)
    # One number per color: sorting rows takes 30 times as long.
    values, counts = np.unique(packed, return_counts=True)
    exact = values if len(values) <= 256 else np.sort(values[np.argsort(-counts, kind="stable")[:_EXACT_COLORS]])
    places = np.minimum(np.searchsorted(exact, packed), len(exact) - 1)
    is_exact = exact[places] == packed
    colors = _unpacked(exact).flatten().tolist()
    if not is_exact.all():
        # At most 2^20 pixels determine the palette, which is enough for some 200 colors.
        others = _unpacked(packed[~is_exact])
        others = others[:: 1 + (len(others) >> 20)]
        near = Image.fromarray(others[None]).quantize(256 - len(exact), method=Image.Quantize.MEDIANCUT)
        colors += near.getpalette() or []
    palette = Image.new("P", (1, 1))
    palette.putpalette(colors)
    pages = []
    for frame, place, kept in zip(frames, places, is_exact, strict=True):
        nearest = Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        # Pillow's search for the nearest color is exact to a few levels only.
        page = Image.fromarray(np.where(kept, place, np.asarray(nearest)).astype(np.uint8))
        page.putpalette(colors)
        pages.append(page)
    return pages


def _unpacked(colors: NDArray[np.uint32]) -> Pixels:
    """Split colors ``[N]``, 8 bits per channel, into uint8 ``[N, 3]``."""
    return np.stack([colors >> 16, colors >> 8 & 255, colors & 255], axis=-1).astype(np.uint8)
