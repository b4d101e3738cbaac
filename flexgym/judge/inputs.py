"""What a judge sees: samples as encoded pictures, and image and video files as samples."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexgym.core.errors import ConfigError, unknown_name
from flexgym.core.images import MAX_PIXELS, ImageReader
from flexgym.judge.backends.base import Picture

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})
VIDEO_SUFFIXES = frozenset({".avi", ".gif", ".mkv", ".mov", ".mp4", ".webm"})

MAX_FRAMES = 20_000
"""Of a video that is read from a file: eleven minutes at 30 per second."""

_MEDIA_TYPES = {"jpeg": "image/jpeg", "png": "image/png"}
_IMAGES = ImageReader(error=lambda _, message: ConfigError(f"{message}."))
_VIDEO_FORMATS = "avi,gif,matroska,mov"


@dataclass(frozen=True)
class Inputs:
    """How samples are turned into pictures.

    Attributes:
        format: ``"jpeg"``, as the authors of UnifiedReward-Flex send, or ``"png"``, which loses nothing.
        quality: of JPEG, 1 to 95.
        num_frames: pictures per video; a shorter video gives one per frame.
        max_side: longest side in pixels; larger pictures are reduced to it.
        max_bytes: of one encoded picture.
    """

    format: Literal["jpeg", "png"] = "jpeg"
    quality: int = 95
    num_frames: int = 8
    max_side: int = 1024
    max_bytes: int = 8 * 2**20

    def __post_init__(self) -> None:
        if self.format not in _MEDIA_TYPES:
            raise unknown_name("picture format", self.format, _MEDIA_TYPES)
        if not 1 <= self.quality <= 95:
            raise ConfigError(f"quality of JPEG pictures: expected 1 to 95, got {self.quality}.")
        for name in ("num_frames", "max_side", "max_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1, got {getattr(self, name)}.")


def frame_indices(num_available: int, num_wanted: int) -> NDArray[np.intp]:
    """Uniformly spaced frames, the first and the last among them.

    These are ``np.linspace(0, num_available - 1, num_wanted)`` rounded down, without its rounding errors; all frames
    where fewer are available than wanted, and the first where one is wanted.

    Args:
        num_available: frames of the video, at least 1.
        num_wanted: at least 1.

    Returns:
        int ``[min(num_available, num_wanted)]``, ascending.
    """
    count = min(num_available, num_wanted)
    return np.arange(count) * (num_available - 1) // max(count - 1, 1)


def encode_sample(sample: NDArray[np.uint8], inputs: Inputs) -> tuple[Picture, ...]:
    """The pictures of a sample in the order in which the judge sees them.

    Args:
        sample: uint8 ``[H, W, 3]`` for an image, ``[F, H, W, 3]`` for a video.
        inputs: the settings.

    Returns:
        One picture for an image, one per chosen frame for a video.

    Raises:
        ConfigError: another type or shape, or a picture above ``max_bytes``.
    """
    if sample.dtype != np.uint8 or sample.ndim not in (3, 4) or sample.shape[-1] != 3 or not sample.size:
        raise ConfigError(f"sample: expected uint8 [H, W, 3] or [F, H, W, 3], got {sample.dtype} {list(sample.shape)}.")
    frames = sample[None] if sample.ndim == 3 else sample[frame_indices(len(sample), inputs.num_frames)]
    return tuple(_encode(frame, inputs) for frame in frames)


def read_sample(path: str | Path, *, num_frames: int = 8) -> NDArray[np.uint8]:
    """An image or video file as a sample; the ending of its name says which.

    Args:
        path: the file.
        num_frames: how many uniformly spaced frames are kept of a video.

    Returns:
        uint8 ``[H, W, 3]`` for an image, ``[F, H, W, 3]`` for a video.

    Raises:
        ConfigError: missing, not readable, too large, or of another kind.
    """
    path = Path(path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return read_image(path)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        return read_video(path, num_frames=num_frames)
    known = ", ".join(sorted(IMAGE_SUFFIXES | VIDEO_SUFFIXES))
    raise ConfigError(f"{path}: expected an image or video file ending in {known}.")


def read_image(path: str | Path) -> NDArray[np.uint8]:
    """Read an image file upright, without its transparency.

    Args:
        path: PNG, JPEG, WebP or BMP within the bounds of `flexgym.core.images`.

    Returns:
        uint8 ``[H, W, 3]``.

    Raises:
        ConfigError: the file is missing, unreadable or too large.
    """
    return np.asarray(_IMAGES.load(path))


def read_video(path: str | Path, *, num_frames: int = 8) -> NDArray[np.uint8]:
    """Uniformly spaced frames of a video file.

    The file is decoded twice, first to count: what its header says about the number of frames is often missing or
    wrong, and holding all of them takes gigabytes.

    Args:
        path: AVI, GIF, Matroska, MP4, QuickTime or WebM, of at most 20,000 frames of at most 2^26 pixels.
        num_frames: how many to keep, see `frame_indices`.

    Returns:
        uint8 ``[F, H, W, 3]`` with F at most ``num_frames``.

    Raises:
        ConfigError: missing, not readable, without frames or too large.
    """
    count = sum(1 for _ in _decode(path))
    if not count:
        raise ConfigError(f"{path}: expected a video, got a file without frames.")
    wanted = set(frame_indices(count, num_frames).tolist())
    kept = [frame.to_ndarray(format="rgb24") for index, frame in enumerate(_decode(path)) if index in wanted]
    if len(kept) < len(wanted) or len({frame.shape for frame in kept}) > 1:
        raise ConfigError(f"{path}: expected a video with frames of one size, which can be read twice.")
    return np.stack(kept)


def _decode(path: str | Path) -> Iterator[Any]:
    import av  # opens codec libraries, which only those who read videos need

    try:
        # An open file and a list of formats: ffmpeg would take a name for an address, and a playlist for its entries.
        with Path(path).open("rb") as file, av.open(file, options={"format_whitelist": _VIDEO_FORMATS}) as container:
            if not container.streams.video:
                raise ConfigError(f"{path}: expected a video, got a file without a video stream.")
            stream = container.streams.video[0]
            _check_pixels(path, stream.codec_context.width, stream.codec_context.height)
            for index, frame in enumerate(container.decode(stream)):
                if index == MAX_FRAMES:
                    raise ConfigError(f"{path}: expected at most {MAX_FRAMES} frames; cut the video.")
                _check_pixels(path, frame.width, frame.height)
                yield frame
    except (OSError, av.FFmpegError) as error:
        if not Path(path).is_file():
            raise ConfigError(f"{path}: there is no such file.") from None
        raise ConfigError(f"{path}: cannot be read as video: {error}.") from None


def _check_pixels(path: str | Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ConfigError(f"{path}: expected at most {MAX_PIXELS} pixels, got {width} x {height}.")


def _encode(frame: NDArray[np.uint8], inputs: Inputs) -> Picture:
    image = Image.fromarray(np.ascontiguousarray(frame))
    image.thumbnail((inputs.max_side, inputs.max_side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, inputs.format, **({"quality": inputs.quality} if inputs.format == "jpeg" else {}))
    data = buffer.getvalue()
    if len(data) > inputs.max_bytes:
        raise ConfigError(
            f"a picture of {image.width} x {image.height} takes {len(data)} bytes as {inputs.format}, expected at most "
            f"{inputs.max_bytes}: lower max_side, or send JPEG."
        )
    # A server keeps one picture per id, so all that changes what it gets has to change the id: the file itself does.
    return Picture(data, _MEDIA_TYPES[inputs.format], hashlib.blake2b(data, digest_size=20).hexdigest())
