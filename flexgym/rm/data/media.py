"""Load the media of rows: resolve paths, check files, and decode them to images."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from flexgym.core.errors import ConfigError
from flexgym.core.images import ImageFault, ImageReader, Pixels
from flexgym.judge.inputs import Inputs, encode_sample, read_video
from flexgym.rm.data.files import MAX_FILE_BYTES, Clip, MediaFile, Source
from flexgym.rm.data.problems import RowError

MAX_ASPECT = 100
"""Maximum aspect ratio of an image; the Qwen-VL processors fail at 200."""

_KINDS: Mapping[ImageFault, str] = {
    "missing": "missing_file",
    "too_large": "too_large",
    "unreadable": "unreadable_media",
}
_IMAGES = ImageReader(
    error=lambda fault, message: RowError(_KINDS[fault], message), max_bytes=MAX_FILE_BYTES, max_aspect=MAX_ASPECT
)


@dataclass(frozen=True)
class Folder:
    """Folder of media files, with a root that files must not leave.

    Attributes:
        base: folder that relative paths start from.
        root: resolved folder that all files must be in, after following ``..``, absolute paths and links.
    """

    base: Path
    root: Path

    def locate(self, file: MediaFile) -> MediaFile:
        """Return the file with its absolute path, links resolved; an embedded file is returned unchanged.

        Raises:
            RowError: of kind ``outside_root``, or ``missing_file`` for a URL.
        """
        if file.data is not None:
            return file
        path = file.path or ""
        if path.startswith(("http://", "https://", "s3://", "hf://")):
            raise RowError("missing_file", f"{path!r} is a URL: download the file and give its path")
        place = Path(os.path.realpath(self.base / path))
        if not place.is_relative_to(self.root):
            raise RowError(
                "outside_root",
                f"{path!r} leads to {place}, which is outside of {self.root}: set root to a folder with all media",
            )
        return MediaFile(path=str(place))

    def find(self, file: MediaFile) -> MediaFile:
        """Locate a file that must exist, and return it with its absolute path.

        Raises:
            RowError: of kind ``outside_root``, ``missing_file`` or ``too_large``.
        """
        located = self.locate(file)
        if located.data is not None:
            return located
        try:
            size = _size(Path(located.path or ""))
        except OSError as error:
            raise RowError("missing_file", f"{file} cannot be read: {error.strerror}") from None
        if size is None:
            raise RowError("missing_file", f"there is no file {file.path!r} in {self.base}")
        if size > MAX_FILE_BYTES:
            raise RowError("too_large", f"{file}: expected at most {MAX_FILE_BYTES} bytes, got {size}")
        return located


def load_picture(file: MediaFile) -> Image.Image:
    """Load an image in RGB, rotated according to its EXIF data and without transparency.

    Args:
        file: PNG, JPEG, WebP or BMP with at most 2^26 pixels.

    Raises:
        RowError: if it is missing, damaged, truncated, too large, or has another format.
    """
    return _IMAGES.load(_source(file), str(file))


def load_pictures(images: Sequence[Source], inputs: Inputs | None = None) -> list[Image.Image]:
    """Load the images of a row in the order of their placeholders.

    Args:
        images: files and clips of the row.
        inputs: how the judge's samples are converted to model inputs. The images are then resized and encoded in the
            same way, so their pixels equal those that a judge receives. None keeps images as they are in their files.

    Returns:
        RGB images; a clip provides as many as its ``num_frames``.

    Raises:
        RowError: see `load_picture`; also if a video has fewer frames than its clip requires.
    """
    pictures = [picture for source in images for picture in _load(source)]
    if inputs is None:
        return pictures
    return [_as_judged(picture, inputs) for picture in pictures]


def load_frames(video: MediaFile, num_frames: int) -> Pixels:
    """Load uniformly spaced frames of a video.

    Args:
        video: AVI, GIF, Matroska, MP4, QuickTime or WebM.
        num_frames: number of frames; a shorter video gives all of its frames.

    Returns:
        uint8 ``[F, H, W, 3]`` with F at most ``num_frames``.

    Raises:
        RowError: if it is missing, damaged, too large, or has another format.
    """
    with _as_path(video) as path:
        try:
            return read_video(path, num_frames=num_frames)
        except ConfigError as error:
            raise _unreadable(video, str(error)) from None


def check_source(source: Source) -> None:
    """Read a media file to its end to verify that it is complete.

    Raises:
        RowError: see `load_pictures`.
    """
    if isinstance(source, Clip):
        _load_clip(source)
    elif source.is_video:
        load_frames(source, 1)
    else:
        _IMAGES.check(_source(source), str(source))


def _size(path: Path) -> int | None:
    """Return the size of a file in bytes; None if it does not exist or is not a regular file."""
    return path.stat().st_size if path.is_file() else None


def _load(source: Source) -> list[Image.Image]:
    if isinstance(source, Clip):
        return [Image.fromarray(frame) for frame in _load_clip(source)]
    return [load_picture(source)]


def _load_clip(clip: Clip) -> Pixels:
    frames = load_frames(clip.video, clip.num_frames)
    if len(frames) < clip.num_frames:
        raise RowError(
            "unreadable_media", f"{clip.video}: expected at least {clip.num_frames} frames, got {len(frames)}"
        )
    return frames


def _source(file: MediaFile) -> str | bytes:
    return (file.path or "") if file.data is None else file.data


def _as_judged(picture: Image.Image, inputs: Inputs) -> Image.Image:
    (encoded,) = encode_sample(np.asarray(picture), inputs)
    with Image.open(io.BytesIO(encoded.data)) as image:
        return image.convert("RGB")


@contextlib.contextmanager
def _as_path(file: MediaFile) -> Iterator[Path]:
    """Yield a path to a file; an embedded file is written to a temporary folder."""
    if file.data is None:
        yield Path(file.path or "")
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"video{file.suffix}"
        path.write_bytes(file.data)
        yield path


def _unreadable(file: MediaFile, reason: str) -> RowError:
    missing = file.data is None and not Path(file.path or "").is_file()
    return RowError("missing_file" if missing else "unreadable_media", f"{file}: {reason}".rstrip("."))
