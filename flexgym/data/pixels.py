"""Samples at the size of a generator: media of rows, scaled, cropped, and with as many frames as it makes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from flexgym.core.images import Pixels
from flexgym.data.files import MediaFile
from flexgym.data.media import count_frames, load_picture, read_frames
from flexgym.data.problems import RowError
from flexgym.judge.inputs import frame_indices

Frames = Literal["first", "spread"]
"""Which frames of a longer video are taken: the first ones, or evenly spaced ones from the first to the last."""


@dataclass(frozen=True)
class SampleForm:
    """The form that samples are brought to.

    Attributes:
        shape: of one sample, ``(H, W, 3)`` or ``(F, H, W, 3)``.
        frames: which frames of a longer video are taken.
    """

    shape: tuple[int, ...]
    frames: Frames = "first"

    @property
    def num_frames(self) -> int | None:
        """Number of frames of a video; None for images."""
        return self.shape[0] if len(self.shape) == 4 else None

    def check(self, files: Sequence[MediaFile]) -> None:
        """Check that files can become a sample.

        Raises:
            RowError: an image where a video is wanted or the other way round, or a video with too few frames.
        """
        if self.num_frames is None:
            if len(files) > 1 or files[0].is_video:
                raise RowError("invalid", f"{files[0]}: expected one image, since the generator makes images")
        elif not files[0].is_video and len(files) == 1:
            raise RowError("invalid", f"{files[0]}: expected a video, since the generator makes videos, got an image")
        elif len(files) > 1 and any(file.is_video for file in files):
            raise RowError("invalid", f"{files[0]}: expected one video file or a list of frames, got a mix")
        else:
            self._chosen(count_frames(files[0]) if files[0].is_video else len(files), files)

    def load(self, files: Sequence[MediaFile]) -> NDArray[np.uint8]:
        """Load a sample: scaled until it covers the form, and cropped to its center.

        Args:
            files: an image, a video file, or the frames of a video.

        Returns:
            uint8 of the form's shape.

        Raises:
            RowError: a file is missing, damaged or too large, or see `check`.
        """
        if self.num_frames is None:
            return self.fitted(load_picture(files[0]))
        if files[0].is_video:
            frames = read_frames(files[0], lambda count: self._chosen(count, files))
            return np.stack([self.fitted(frame) for frame in frames])
        chosen = [files[index] for index in self._chosen(len(files), files)]
        return np.stack([self.fitted(load_picture(file)) for file in chosen])

    def _chosen(self, count: int, files: Sequence[MediaFile]) -> NDArray[np.intp]:
        wanted = self.num_frames or 1
        if count < wanted:
            raise RowError("invalid", f"{files[0]}: expected at least {wanted} frames, got {count}")
        return np.arange(wanted) if self.frames == "first" else frame_indices(count, wanted)

    def fitted(self, image: Image.Image | Pixels) -> Pixels:
        """Return an image or a frame, scaled until it covers the form and cropped to its center."""
        height, width = self.shape[-3:-1]
        shown = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        if shown.size != (width, height):
            shown = ImageOps.fit(shown, (width, height), Image.Resampling.LANCZOS)
        return np.array(shown)


def content_digest(files: Sequence[MediaFile]) -> str:
    """Return the SHA-256 digest of the content of files, in hexadecimal.

    Raises:
        RowError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(_bytes_of(file)).digest())
    return digest.hexdigest()


def _bytes_of(file: MediaFile) -> bytes:
    if file.data is not None:
        return file.data
    try:
        return Path(file.path or "").read_bytes()
    except OSError as error:
        raise RowError("missing_file", f"{file} cannot be read: {error.strerror}") from None
