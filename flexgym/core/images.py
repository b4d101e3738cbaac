"""Read image files within bounds on their bytes and pixels."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

Pixels = NDArray[np.uint8]
"""Pixels of images or videos, with RGB as last dimension."""

MAX_BYTES = 512 * 2**20
"""Default maximum size of an image file."""

MAX_PIXELS = 2**26
"""Default maximum of height times width, 8192 x 8192."""

ImageFault = Literal["missing", "too_large", "unreadable"]
"""Reason for which an image is rejected; ``"too_large"`` covers bytes, pixels and aspect ratio."""

_FORMATS = ("BMP", "JPEG", "PNG", "WEBP")
# Pillow reports damaged files by all of these.
_DAMAGE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
_URL = re.compile(r"\w{2,}:/")


@dataclass(frozen=True)
class ImageReader:
    """Reader of BMP, JPEG, PNG and WebP images, from files or from bytes.

    Bounds are checked before any pixel is decoded, so that a hostile file cannot exhaust the memory. Each method takes
    a ``source``, the path of a file or its content, and a ``name`` for error messages (the path by default), and
    raises the exception that `error` builds.

    Attributes:
        error: builds the exception to raise from the kind of fault and a message.
        max_bytes: maximum size of a file.
        max_pixels: maximum of height times width.
        max_aspect: maximum ratio of the longer side to the shorter one; None for no bound.
    """

    error: Callable[[ImageFault, str], Exception]
    max_bytes: int = MAX_BYTES
    max_pixels: int = MAX_PIXELS
    max_aspect: int | None = None

    def load(self, source: Path | str | bytes, name: str = "") -> Image.Image:
        """Decode an image to RGB. Its EXIF orientation is applied and its transparency is dropped."""
        with self._opened(source, name) as image:
            return ImageOps.exif_transpose(image).convert("RGB")

    def check_header(self, source: Path | str | bytes, name: str = "") -> None:
        """Check format and bounds without reading pixels; a truncated file passes."""
        with self._opened(source, name):
            pass

    def check(self, source: Path | str | bytes, name: str = "") -> None:
        """Read an image to its end to find out whether it is whole."""
        with self._opened(source, name) as image:
            # A JPEG is then decoded at an eighth of its size: all of its data are read, and little is computed.
            image.draft("RGB", (1, 1))
            image.load()

    @contextlib.contextmanager
    def _opened(self, source: Path | str | bytes, name: str) -> Iterator[Image.Image]:
        """Yield an image within bounds whose pixels are not decoded yet."""
        if not name:
            name = f"an image of {len(source)} bytes" if isinstance(source, bytes) else str(source)
        with self._stream(source, name) as stream:
            with self._damage_reported(name, "; expected BMP, JPEG, PNG or WebP"):
                image = Image.open(stream, formats=_FORMATS)
            with image:
                self._check_size(name, *image.size)
                with self._damage_reported(name):
                    yield image

    @contextlib.contextmanager
    def _stream(self, source: Path | str | bytes, name: str) -> Iterator[IO[bytes]]:
        stream = io.BytesIO(source) if isinstance(source, bytes) else self._file(Path(source), name)
        with stream:
            size = len(source) if isinstance(source, bytes) else os.fstat(stream.fileno()).st_size
            if size > self.max_bytes:
                raise self.error("too_large", f"{name}: expected at most {self.max_bytes} bytes, got {size}")
            yield stream

    def _file(self, path: Path, name: str) -> IO[bytes]:
        with self._damage_reported(name):
            if path.is_file():
                return path.open("rb")
        hint = ": download the image and give its path" if _URL.match(str(path)) else ""
        raise self.error("missing", f"{name}: there is no such file{hint}")

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

    @contextlib.contextmanager
    def _damage_reported(self, name: str, hint: str = "") -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            raise self.error("unreadable", f"{name}: cannot be read as an image: {error}{hint}") from None
