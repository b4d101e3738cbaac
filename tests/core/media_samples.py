"""Small image and video files of all kinds, made where they are needed."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexgym.core.media import encode_gif

Pixels = NDArray[np.uint8]

VIDEO_CODECS = {"mp4": "libx264", "mov": "libx264", "matroska": "libx264", "webm": "libvpx-vp9", "avi": "mpeg4"}
QUADRANTS = {"R": (255, 0, 0), "G": (0, 255, 0), "B": (0, 0, 255), "W": (255, 255, 255)}
"""Colors of `quarters`, from left to right and from top to bottom."""


def noise(*shape: int, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def quarters(height: int = 48, width: int = 64) -> Pixels:
    """Return an image of four colors."""
    r, g, b, w = (np.broadcast_to(np.uint8(color), (height // 2, width // 2, 3)) for color in QUADRANTS.values())
    return np.concatenate([np.concatenate([r, g], 1), np.concatenate([b, w], 1)])


def named_quarters(pixels: Pixels) -> str:
    """Return the letters of the four colors as they are seen in an image ``[H, W, 3]``."""
    height, width = pixels.shape[:2]
    places = [(y, x) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    return "".join(
        min(QUADRANTS, key=lambda name: int(np.abs(pixels[place].astype(int) - QUADRANTS[name]).sum()))
        for place in places
    )


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(bits: int, color: int, row: bytes, *, chunks: bytes = b"", height: int = 2) -> bytes:
    """Return a PNG that Pillow does not write, of rows that are all alike."""
    width = len(row) * 8 // (bits * {0: 1, 2: 3, 4: 2, 6: 4}[color])
    header = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress((b"\0" + row) * height))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunks + data + chunk(b"IEND", b"")


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def video(
    folder: Path | str,
    frames: Pixels,
    *,
    kind: str = "mp4",
    codec: str = "",
    pixels: str = "yuv420p",
    setup: Callable[[Any], None] = lambda stream: None,
) -> bytes:
    """Encode frames ``[F, H, W, 3]``; ``setup`` may change the stream."""
    path = Path(folder) / f"video.{kind}"
    options = {"movflags": "faststart"} if kind in ("mp4", "mov") else {}
    with av.open(str(path), "w", format=kind, options=options) as container:
        stream = container.add_stream(codec or VIDEO_CODECS[kind], rate=10)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixels
        setup(stream)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode())
    return path.read_bytes()


def flat_video(
    folder: Path, levels: tuple[int, int, int], *, matrix: int, full: bool, pixels: str = "yuv420p"
) -> bytes:
    """Encode one frame of Y, Cb and Cr in 8 bits, as a lossless file that names their matrix and range."""
    path, color_range = folder / "flat.mp4", 2 if full else 1
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"qp": "0"})
        stream.height = stream.width = 64
        stream.pix_fmt = pixels
        frame = av.VideoFrame(64, 64, pixels)
        for plane, level in zip(frame.planes, levels, strict=True):
            deep = "10" in pixels
            count = plane.buffer_size // (2 if deep else 1)
            plane.update(np.full(count, level * (4 if deep else 1), np.uint16 if deep else np.uint8).tobytes())
        for part in (stream.codec_context, frame):
            part.colorspace, part.color_range = matrix, color_range
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


def turned(mp4: bytes, matrix: tuple[int, int, int, int]) -> bytes:
    """Return an MP4 file with another display matrix, in units of 1."""
    at = mp4.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    return mp4[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + mp4[at + 36 :]


def image_files() -> dict[str, bytes]:
    """Return an image of each format, with what cameras add to it."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    image = Image.fromarray(noise(20, 30, 3))
    files = {kind: encoded(image, kind, exif=exif) for kind in ("PNG", "JPEG", "WEBP")}
    files["BMP"] = encoded(image, "BMP")
    files["palette"] = encoded(image.quantize(16), "PNG", transparency=3)
    files["CMYK"] = encoded(image.convert("CMYK"), "JPEG")
    files["gray16"] = png(16, 0, bytes(range(64)), chunks=chunk(b"gAMA", struct.pack(">I", 100_000)))
    return files


def video_files(folder: Path | str) -> dict[str, bytes]:
    """Return a video in each container."""
    frames = noise(6, 32, 48, 3)
    files = {kind: video(folder, frames, kind=kind) for kind in VIDEO_CODECS}
    return files | {"gif": encode_gif(frames)}


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Return a file with a few bytes changed, most of them near its beginning, and every third time cut short."""
    changed = bytearray(data)
    reach = len(data) if rng.random() < 0.4 else min(len(data), 200)
    for place in rng.integers(0, reach, rng.integers(1, 9)):
        changed[place] = rng.integers(0, 256)
    return bytes(changed[: rng.integers(0, len(data))] if rng.random() < 1 / 3 else changed)
