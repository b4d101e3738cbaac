"""The picture that a video is to begin with: from an array or a file, within bounds, at the size of the sample."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from flexgym.core.errors import PromptSourceError

MAX_FILE_BYTES = 64 * 2**20
"""Size of a file at most."""
MAX_PIXELS = 2**26
"""Height times width of a picture at most."""
_FORMATS = ("BMP", "JPEG", "PNG", "WEBP")
_SUFFIXES = "BMP, JPEG, PNG or WebP"
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)


@dataclass(frozen=True, eq=False)
class FirstFrame:
    """A picture that a video begins with.

    A file is checked when this is made, as far as its header, and read whenever its pixels are asked for, so that a set
    of prompts holds paths and no pixels. Two of them are equal when their pixels are.

    Attributes:
        source: uint8 ``[H, W, 3]``, or the path of a BMP, JPEG, PNG or WebP file.

    Raises:
        PromptSourceError: when there is no such file, it is no picture, or the picture is too large; `pixels` raises it
            as well, for a file that is cut short.
    """

    source: NDArray[np.uint8] | Path | str

    def __post_init__(self) -> None:
        if isinstance(self.source, str | Path):
            path = Path(self.source).expanduser()
            _check_file(path)
            object.__setattr__(self, "source", path)
            return
        pixels: Any = self.source
        if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
            raise PromptSourceError(
                f"a first frame must be uint8 [H, W, 3] or the path of a picture, got {_kind(pixels)}"
            )
        _check_size("a first frame", pixels.shape[1], pixels.shape[0])
        own = pixels.copy()
        own.flags.writeable = False
        object.__setattr__(self, "source", own)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FirstFrame) and (self is other or self.digest == other.digest)

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """uint8 ``[H, W, 3]``, read-only or fresh from the file."""
        return self.source if isinstance(self.source, np.ndarray) else _read(Path(self.source))

    @cached_property
    def digest(self) -> str:
        """Hexadecimal, of the pixels and their shape."""
        pixels = self.pixels
        return hashlib.sha256(str(pixels.shape).encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()

    def fitted(self, height: int, width: int) -> FirstFrame:
        """The picture at another size: scaled until it covers it, what stands out on two sides cut off.

        Args:
            height: in pixels.
            width: in pixels.

        Returns:
            One that holds its pixels; itself when it is of that size and holds them already.
        """
        if isinstance(self.source, np.ndarray) and self.source.shape[:2] == (height, width):
            return self
        picture = Image.fromarray(self.pixels)
        return FirstFrame(np.asarray(ImageOps.fit(picture, (width, height), Image.Resampling.LANCZOS)))


def _kind(value: Any) -> str:
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else repr(value)[:80]


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise PromptSourceError(f"there is no picture {str(path)!r} for a first frame (an address must be downloaded)")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise PromptSourceError(f"{path}: expected at most {MAX_FILE_BYTES} bytes, got {path.stat().st_size}")
    try:
        with Image.open(path, formats=_FORMATS) as image:
            size = image.size
    except _BROKEN as error:
        raise PromptSourceError(f"{path} is no picture that can be read ({_SUFFIXES}): {error}") from None
    _check_size(str(path), *size)


def _check_size(name: str, width: int, height: int) -> None:
    if not 0 < width * height <= MAX_PIXELS:
        raise PromptSourceError(f"{name}: expected a picture of 1 to {MAX_PIXELS} pixels, got {width} x {height}")


def _read(path: Path) -> NDArray[np.uint8]:
    _check_file(path)  # it may have changed since
    try:
        with Image.open(path, formats=_FORMATS) as image:
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except _BROKEN as error:
        raise PromptSourceError(f"{path} cannot be read as a picture: {error}") from None
