"""From the media that a row names to pictures: where a file may lie, whether it is whole, and its pixels."""

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
"""Longest side of a picture by its shortest; the processors of Qwen-VL fail at 200."""

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
    """Where the files of rows are looked for, and where they may lie.

    Attributes:
        base: what relative paths start from.
        root: files outside of it are refused, wherever ``..``, an absolute path or a link leads. It is resolved.
    """

    base: Path
    root: Path

    def locate(self, file: MediaFile) -> MediaFile:
        """The file with its absolute path, links followed; one that is embedded stays as it is.

        Raises:
            RowError: of kind ``outside_root``, or ``missing_file`` for an address in the web.
        """
        if file.data is not None:
            return file
        path = file.path or ""
        if path.startswith(("http://", "https://", "s3://", "hf://")):
            raise RowError("missing_file", f"{path!r} is an address: download the file and give its path")
        place = Path(os.path.realpath(self.base / path))
        if not place.is_relative_to(self.root):
            raise RowError(
                "outside_root",
                f"{path!r} leads to {place}, outside of {self.root}; name a folder that holds all media as root",
            )
        return MediaFile(path=str(place))

    def find(self, file: MediaFile) -> MediaFile:
        """The same for a file that must be there.

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
    """An image with its pixels, turned upright, in RGB; transparency is dropped.

    Args:
        file: PNG, JPEG, WebP or BMP of at most 2^26 pixels.

    Raises:
        RowError: it is missing, damaged, cut short, too large, or of another kind.
    """
    return _IMAGES.load(_source(file), str(file))


def load_pictures(images: Sequence[Source], inputs: Inputs | None = None) -> list[Image.Image]:
    """The pictures of a row in the order of their places.

    Args:
        images: files and clips of the row.
        inputs: how the judge's samples are turned into pictures; the pixels are then the very ones that a judge gets,
            reduced in size and encoded on the way. None leaves pictures as they are in their files.

    Returns:
        RGB images; a clip gives as many as it says.

    Raises:
        RowError: see `load_picture`; also a video with fewer frames than its clip promises.
    """
    pictures = [picture for source in images for picture in _load(source)]
    if inputs is None:
        return pictures
    return [_as_judged(picture, inputs) for picture in pictures]


def load_frames(video: MediaFile, num_frames: int) -> Pixels:
    """Uniformly spaced frames of a video.

    Args:
        video: AVI, GIF, Matroska, MP4, QuickTime or WebM.
        num_frames: wanted; a shorter video gives all that it has.

    Returns:
        uint8 ``[F, H, W, 3]`` with F at most ``num_frames``.

    Raises:
        RowError: it is missing, damaged, too large, or of another kind.
    """
    with _as_path(video) as path:
        try:
            return read_video(path, num_frames=num_frames)
        except ConfigError as error:
            raise _unreadable(video, str(error)) from None


def check_source(source: Source) -> None:
    """Read a file from its begin to its end, as far as it takes to know that it is whole.

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
    """Bytes of a file; None where there is none, or something else than a file."""
    return path.stat().st_size if path.is_file() else None


def _load(source: Source) -> list[Image.Image]:
    if isinstance(source, Clip):
        return [Image.fromarray(frame) for frame in _load_clip(source)]
    return [load_picture(source)]


def _load_clip(clip: Clip) -> Pixels:
    frames = load_frames(clip.video, clip.num_frames)
    if len(frames) < clip.num_frames:
        raise RowError(
            "unreadable_media", f"{clip.video}: expected at least {clip.num_frames} frames, found {len(frames)}"
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
    """A path under which a file can be opened; an embedded one is written to a temporary folder."""
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
