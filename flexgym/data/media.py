"""Load the media of rows: resolve paths, check files, measure them, and decode them to images."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flexgym.core.images import ImageReader, Pixels, Size, fitted_size
from flexgym.core.media_files import MediaFault
from flexgym.core.videos import VideoReader
from flexgym.data.files import MAX_FILE_BYTES, Clip, MediaFile, Source
from flexgym.data.problems import RowError
from flexgym.judge.inputs import Inputs, frame_indices, shown
from flexgym.types import Modality

MAX_ASPECT = 100
"""Maximum aspect ratio of an image; the Qwen-VL processors fail at 200."""

MAX_ROW_PIXELS = 2**27
"""Maximum of the pixels of all images of a row as they are trained on: 64 images in full HD."""

AS_STORED = Inputs(format="png", max_side=None)
"""Images as they are in their files, as TRL trains on them."""

_KINDS: Mapping[MediaFault, str] = {
    "missing": "missing_file",
    "too_large": "too_large",
    "unreadable": "unreadable_media",
}


def _rejected(fault: MediaFault, message: str) -> RowError:
    return RowError(_KINDS[fault], message)


_IMAGES = ImageReader(error=_rejected, max_bytes=MAX_FILE_BYTES, max_aspect=MAX_ASPECT)
_VIDEOS = VideoReader(error=_rejected, max_bytes=MAX_FILE_BYTES)


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
            size = _stored_bytes(Path(located.path or ""))
        except OSError as error:
            raise RowError("missing_file", f"{file} cannot be read: {error.strerror}") from None
        if size is None:
            raise RowError("missing_file", f"there is no file {file.path!r} in {self.base}")
        if size > MAX_FILE_BYTES:
            raise RowError("too_large", f"{file}: expected at most {MAX_FILE_BYTES} bytes, got {size}")
        return located


def load_picture(file: MediaFile) -> Image.Image:
    """Load an image upright, in RGB, as `flexgym.core.images.ImageReader` does.

    Args:
        file: PNG, JPEG, WebP or BMP with at most 2^26 pixels.

    Raises:
        RowError: if it is missing, damaged, truncated, too large, or has another format.
    """
    return _IMAGES.load(_content(file), str(file))


def load_pictures(images: Sequence[Source], inputs: Inputs = AS_STORED) -> list[Image.Image]:
    """Load the images of a row in the order of their placeholders; a source that is repeated is decoded once.

    Args:
        images: files and clips of the row.
        inputs: how a judge's samples are converted to model inputs. The images are resized and encoded in the same way,
            so their pixels equal those that a judge receives. By default they are kept as they are in their files.

    Returns:
        RGB images of at most `MAX_ROW_PIXELS` pixels in total; a clip provides as many as its ``num_frames``.

    Raises:
        RowError: see `picture_sizes`.
    """
    sizes = {source: _size(source, _IMAGES.stored_size) for source in dict.fromkeys(images)}
    _check_pixels(images, sizes, inputs)
    loaded = {source: _load(source, inputs) for source in dict.fromkeys(images)}
    return [picture for source in images for picture in loaded[source]]


def picture_sizes(images: Sequence[Source], inputs: Inputs = AS_STORED) -> list[Size]:
    """Return the widths and heights of the images that `load_pictures` loads, without decoding more than is needed.

    Args:
        images: files and clips of the row.
        inputs: see `load_pictures`.

    Raises:
        RowError: a file is missing, damaged, too large or of another format, a video has fewer frames than its clip
            requires, or the row has too many pixels.
    """
    sizes = {source: _size(source, _IMAGES.size) for source in dict.fromkeys(images)}
    _check_pixels(images, sizes, inputs)
    return [fitted_size(sizes[source], inputs.max_side) for source in images for _ in range(_num_pictures(source))]


def load_frames(video: MediaFile, num_frames: int, max_side: int | None = None) -> Pixels:
    """Load uniformly spaced frames of a video.

    Args:
        video: AVI, GIF, Matroska, MP4, QuickTime or WebM.
        num_frames: number of frames; a shorter video gives all of its frames.
        max_side: maximum length of a side in pixels; larger frames are reduced to it. None for no limit.

    Returns:
        uint8 ``[F, H, W, 3]`` with F at most ``num_frames``.

    Raises:
        RowError: if it is missing, damaged, too large, or has another format.
    """
    return read_frames(video, lambda count: frame_indices(count, num_frames), max_side)


def read_frames(video: MediaFile, choose: Callable[[int], NDArray[np.intp]], max_side: int | None = None) -> Pixels:
    """Load chosen frames of a video.

    Args:
        video: see `load_frames`.
        choose: function from the number of frames of the video to the indices of those to load, ascending.
        max_side: see `load_frames`.

    Returns:
        uint8 ``[F, H, W, 3]``.

    Raises:
        RowError: see `load_frames`.
    """
    return _VIDEOS.load(_content(video), str(video), choose=choose, max_side=max_side)


def load_sample(
    files: Sequence[MediaFile], kind: Modality, *, num_frames: int, max_side: int | None = None
) -> NDArray[np.uint8]:
    """Load a candidate of a pair as a sample.

    Args:
        files: an image, a video file, or the frames of a video.
        kind: ``"image"`` or ``"video"``.
        num_frames: number of uniformly spaced frames; a shorter video gives all of its frames.
        max_side: maximum length of a side of a frame in pixels; larger frames are reduced to it. None for no limit.

    Returns:
        uint8 ``[H, W, 3]`` for an image, ``[F, H, W, 3]`` for a video.

    Raises:
        RowError: see `load_pictures`; also if the frames differ in size.
    """
    if kind == "image":
        return np.asarray(load_picture(files[0]))
    if files[0].is_video:
        return load_frames(files[0], num_frames, max_side)
    chosen = [files[index] for index in frame_indices(len(files), num_frames)]
    frames = load_pictures(chosen, dataclasses.replace(AS_STORED, max_side=max_side))
    if len({frame.size for frame in frames}) > 1:
        raise RowError("invalid", f"{files[0]}: expected frames of the same size, got several sizes")
    return np.stack([np.asarray(frame) for frame in frames])


def count_frames(video: MediaFile) -> int:
    """Return the number of frames of a video, which is decoded to its end.

    Raises:
        RowError: see `load_frames`.
    """
    return _VIDEOS.examine(_content(video), str(video))[0]


def check_source(source: Source) -> None:
    """Read a media file to its end to verify that it is complete.

    Raises:
        RowError: see `picture_sizes`.
    """
    if isinstance(source, Clip):
        _check_count(source, count_frames(source.video))
    elif source.is_video:
        count_frames(source)
    else:
        _IMAGES.check(_content(source), str(source))


def _stored_bytes(path: Path) -> int | None:
    """Return the size of a file in bytes; None if it does not exist or is not a regular file."""
    return path.stat().st_size if path.is_file() else None


def _check_pixels(images: Sequence[Source], sizes: Mapping[Source, Size], inputs: Inputs) -> None:
    """Check the pixels of all images of a row, once they are reduced."""
    fitted = {source: fitted_size(size, inputs.max_side) for source, size in sizes.items()}
    pixels = sum(_num_pictures(source) * math.prod(fitted[source]) for source in images)
    if pixels > MAX_ROW_PIXELS:
        raise RowError(
            "too_large",
            f"expected at most {MAX_ROW_PIXELS} pixels over all images of a row, got {pixels}: make the files smaller,"
            " show fewer, or reduce them as they are read (data.max_side in judge training)",
        )


def _size(source: Source, measure: Callable[[str | bytes, str], Size]) -> Size:
    """Return the width and height of the images of a source; ``measure`` is a method of the reader of images."""
    if not isinstance(source, Clip):
        return measure(_content(source), str(source))
    width, height = _VIDEOS.size(_content(source.video), str(source.video))
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise RowError(
            "too_large",
            f"{source.video}: expected sides that differ by at most a factor of {MAX_ASPECT}, got {width} x {height}",
        )
    return width, height


def _num_pictures(source: Source) -> int:
    return source.num_frames if isinstance(source, Clip) else 1


def _load(source: Source, inputs: Inputs) -> list[Image.Image]:
    if isinstance(source, Clip):
        frames = load_frames(source.video, source.num_frames, inputs.max_side)
        _check_count(source, len(frames))
        return [shown(Image.fromarray(frame), inputs) for frame in frames]
    return [shown(load_picture(source), inputs)]


def _check_count(clip: Clip, count: int) -> None:
    if count < clip.num_frames:
        raise RowError("unreadable_media", f"{clip.video}: expected at least {clip.num_frames} frames, got {count}")


def _content(file: MediaFile) -> str | bytes:
    return (file.path or "") if file.data is None else file.data
