"""Encode samples as images for a judge, and read image and video files as samples."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexgym.core.errors import ConfigError, unknown_name
from flexgym.core.images import ImageReader, fitted, fitted_size
from flexgym.core.videos import VideoReader
from flexgym.judge.backends.base import Picture

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})
VIDEO_SUFFIXES = frozenset({".avi", ".gif", ".mkv", ".mov", ".mp4", ".webm"})

_MEDIA_TYPES = {"jpeg": "image/jpeg", "png": "image/png"}
_IMAGES = ImageReader(error=lambda _, message: ConfigError(f"{message}."))
_VIDEOS = VideoReader(error=lambda _, message: ConfigError(f"{message}."))


@dataclass(frozen=True)
class Inputs:
    """Settings for encoding samples as images.

    Attributes:
        format: ``"jpeg"``, which the authors of UnifiedReward-Flex use, or the lossless ``"png"``.
        quality: quality of JPEG, 1 to 95.
        num_frames: number of images per video; a shorter video gives one per frame.
        max_side: maximum length of a side in pixels; larger images are reduced to it. None for no limit.
        max_bytes: maximum size of one encoded image.
    """

    format: Literal["jpeg", "png"] = "jpeg"
    quality: int = 95
    num_frames: int = 8
    max_side: int | None = 1024
    max_bytes: int = 8 * 2**20

    def __post_init__(self) -> None:
        if self.format not in _MEDIA_TYPES:
            raise unknown_name("image format", self.format, _MEDIA_TYPES)
        if not 1 <= self.quality <= 95:
            raise ConfigError(f"quality of JPEG images: expected 1 to 95, got {self.quality}.")
        for name in ("num_frames", "max_side", "max_bytes"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name}: expected at least 1, got {value}.")


def frame_indices(num_available: int, num_wanted: int) -> NDArray[np.intp]:
    """Return the indices of uniformly spaced frames, including the first and the last one.

    The indices are ``np.linspace(0, num_available - 1, num_wanted)`` rounded down, without its rounding errors. If
    fewer frames are available than wanted, all are returned; if one is wanted, the first.

    Args:
        num_available: number of frames of the video, at least 1.
        num_wanted: number of frames to choose, at least 1.

    Returns:
        int ``[min(num_available, num_wanted)]``, ascending.
    """
    count = min(num_available, num_wanted)
    return np.arange(count) * (num_available - 1) // max(count - 1, 1)


def encode_sample(sample: NDArray[np.uint8], inputs: Inputs) -> tuple[Picture, ...]:
    """Encode a sample as images, in the order in which the judge sees them.

    Args:
        sample: uint8 ``[H, W, 3]`` for an image, ``[F, H, W, 3]`` for a video.
        inputs: settings of the encoding.

    Returns:
        One image for an image, one per chosen frame for a video.

    Raises:
        ConfigError: the sample has another type or shape, or an encoded image exceeds ``max_bytes``.
    """
    if sample.dtype != np.uint8 or sample.ndim not in (3, 4) or sample.shape[-1] != 3 or not sample.size:
        raise ConfigError(f"sample: expected uint8 [H, W, 3] or [F, H, W, 3], got {sample.dtype} {list(sample.shape)}.")
    frames = sample[None] if sample.ndim == 3 else sample[frame_indices(len(sample), inputs.num_frames)]
    return tuple(_encode(frame, inputs) for frame in frames)


def read_sample(path: str | Path, *, num_frames: int = 8, max_side: int | None = None) -> NDArray[np.uint8]:
    """Read an image or video file, by the suffix of its name, as a sample.

    Args:
        path: path of the file.
        num_frames: number of uniformly spaced frames to keep of a video.
        max_side: maximum length of a side of a frame in pixels; larger frames are reduced to it. None for no limit.

    Returns:
        uint8 ``[H, W, 3]`` for an image, ``[F, H, W, 3]`` for a video.

    Raises:
        ConfigError: the file is missing, unreadable, too large, or neither image nor video.
    """
    path = Path(path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return read_image(path)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return read_video(path, num_frames=num_frames, max_side=max_side)
    known = ", ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
    raise ConfigError(f"{path}: expected an image or video file ending in {known}.")


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read an image file upright and in sRGB, as `flexgym.core.images.ImageReader` does.

    Args:
        path: PNG, JPEG, WebP or BMP within the bounds of `flexgym.core.images`.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        ConfigError: the file is missing, unreadable or too large.
    """
    return np.asarray(_IMAGES.load(path))


def read_video(path: str | Path, *, num_frames: int = 8, max_side: int | None = None) -> NDArray[np.uint8]:
    """Read uniformly spaced frames of a video file, as `flexgym.core.videos.VideoReader` does.

    Args:
        path: AVI, GIF, Matroska, MP4, QuickTime or WebM.
        num_frames: number of frames to keep, see `frame_indices`.
        max_side: maximum length of a side in pixels; larger frames are reduced to it. None for no limit.

    Returns:
        uint8 ``[F, H, W, 3]`` with F at most ``num_frames``.

    Raises:
        ConfigError: the file is missing, unreadable, too large or without frames.
    """
    return _VIDEOS.load(path, choose=lambda count: frame_indices(count, num_frames), max_side=max_side)


def shown(image: Image.Image, inputs: Inputs) -> Image.Image:
    """Return an RGB image with the size and the pixels that the model gets of it, as RGB."""
    reduced = fitted(image, fitted_size(image.size, inputs.max_side))
    if inputs.format == "png":
        return reduced
    with Image.open(io.BytesIO(_file(reduced, inputs))) as decoded:
        return decoded.convert("RGB")


def _encode(frame: NDArray[np.uint8], inputs: Inputs) -> Picture:
    image = Image.fromarray(np.ascontiguousarray(frame))
    image = fitted(image, fitted_size(image.size, inputs.max_side))
    data = _file(image, inputs)
    if len(data) > inputs.max_bytes:
        raise ConfigError(
            f"an image of {image.width} x {image.height} takes {len(data)} bytes as {inputs.format}, expected at most "
            f"{inputs.max_bytes}: lower max_side, or send JPEG."
        )
    # A server caches one image per id, so the id must change with the file: it is the hash of the file.
    return Picture(data, _MEDIA_TYPES[inputs.format], hashlib.blake2b(data, digest_size=20).hexdigest())


def _file(image: Image.Image, inputs: Inputs) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, inputs.format, **({"quality": inputs.quality} if inputs.format == "jpeg" else {}))
    return buffer.getvalue()
