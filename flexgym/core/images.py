"""Read image files upright, as 8-bit sRGB, within bounds on their bytes and pixels."""

from __future__ import annotations

import contextlib
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from flexgym.core.colors import as_srgb
from flexgym.core.media_files import MediaFault, MediaReader, Source

Pixels = NDArray[np.uint8]
"""Pixels of images or videos, with RGB as last dimension."""

Size = tuple[int, int]
"""Width and height in pixels."""

MAX_PIXELS = 2**26
"""Default maximum of height times width, 8192 x 8192."""

ImageFault = MediaFault

_FORMATS = ("BMP", "JPEG", "PNG", "WEBP")
# Pillow reports damaged files by all of these.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    Image.DecompressionBombError,
    struct.error,
    ArithmeticError,
    LookupError,
    TypeError,
)
_TURNED = frozenset({5, 6, 7, 8})  # EXIF orientations that exchange width and height
_ORIENTATION = 0x0112


@dataclass(frozen=True)
class ImageReader(MediaReader):
    """Reader of BMP, JPEG, PNG and WebP images, from files or from bytes; see `MediaReader`.

    Bounds are checked before any pixel is decoded, so that a hostile file cannot exhaust the memory.

    Attributes:
        max_pixels: maximum of height times width.
        max_aspect: maximum ratio of the longer side to the shorter one; None for no bound.
    """

    max_pixels: int = MAX_PIXELS
    max_aspect: int | None = None

    kind: ClassVar[str] = "an image"

    def load(self, source: Source, name: str = "") -> Image.Image:
        """Decode an image to RGB, as `flexgym.core.colors.as_srgb` does, turned as its EXIF orientation says."""
        with self._opened(source, name) as image:
            ImageOps.exif_transpose(image, in_place=True)
            return as_srgb(image)

    def size(self, source: Source, name: str = "") -> Size:
        """Return the size of the decoded image; only what follows the pixels of a PNG needs them to be read."""
        with self._opened(source, name) as image:
            turned = image.getexif().get(_ORIENTATION) in _TURNED
            return image.size[::-1] if turned else image.size

    def stored_size(self, source: Source, name: str = "") -> Size:
        """Return width and height before the image is turned, from its header alone; a truncated file passes."""
        with self._opened(source, name) as image:
            return image.size

    def check(self, source: Source, name: str = "") -> None:
        """Read an image to its end to find out whether it is complete and its colors can be converted."""
        with self._opened(source, name) as image:
            # A JPEG is then decoded at an eighth of its size: all of its data are read, and little is computed.
            image.draft("RGB", (1, 1))
            image.load()
            as_srgb(image.resize((1, 1), Image.Resampling.NEAREST))

    @contextlib.contextmanager
    def _opened(self, source: Source, name: str) -> Iterator[Image.Image]:
        """Yield an image within bounds whose pixels are not decoded yet."""
        name = self.named(source, name)
        with self.stream(source, name) as stream:
            with self.damage_reported(name, _DAMAGE, "; expected BMP, JPEG, PNG or WebP"):
                image = Image.open(stream, formats=_FORMATS)
            with image:
                self._check_size(name, *image.size)
                with self.damage_reported(name, _DAMAGE):
                    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
                if frames > 1:
                    raise self.error(
                        "unreadable",
                        f"{name}: expected one image, got an animation of {frames} frames: save the frame to use",
                    )
                with self.damage_reported(name, _DAMAGE):
                    yield image

    def _check_size(self, name: str, width: int, height: int) -> None:
        if not 0 < width * height <= self.max_pixels:
            raise self.error(
                "too_large",
                f"{name}: expected at least 1 and at most {self.max_pixels} pixels, got {width} x {height}",
            )
        if self.max_aspect is not None and max(width, height) > self.max_aspect * min(width, height):
            raise self.error(
                "too_large",
                f"{name}: expected sides that differ by at most a factor of {self.max_aspect}, got {width} x {height}",
            )


def fitted_size(size: Size, max_side: int | None) -> Size:
    """Return the size of an image whose longer side is reduced to ``max_side``, as `PIL.Image.Image.thumbnail` does.

    Args:
        size: width and height.
        max_side: maximum length of a side in pixels; None for no limit. Smaller images keep their size.
    """
    width, height = size
    if max_side is None or max(size) <= max_side:
        return size
    aspect = width / height
    if aspect <= 1:
        exact, error = max_side * aspect, lambda side: abs(aspect - side / max_side)
        return max(1, min(math.floor(exact), math.ceil(exact), key=error)), max_side
    exact, error = max_side / aspect, lambda side: abs(aspect - max_side / side) if side else 0.0
    return max_side, max(1, min(math.floor(exact), math.ceil(exact), key=error))


def fitted(image: Image.Image, size: Size) -> Image.Image:
    """Resize an image as `PIL.Image.Image.thumbnail` does; return it unchanged if it has that size."""
    if image.size == size:
        return image
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
