"""Media that rows refer to: images, videos and video frames, as files or as bytes embedded in the row."""

from __future__ import annotations

import hashlib
from pathlib import PurePath
from typing import Annotated, Any, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from flexgym.judge.inputs import VIDEO_SUFFIXES

MAX_PICTURES = 64
"""Maximum number of images per row, over both candidates of a pair, counting every video frame."""

MAX_FILE_BYTES = 512 * 2**20
"""Maximum size of one media file, in bytes."""

_MAX_PATH = 4096
# Offset of a signature in a file, the signature, and its extension. The brand of an MP4 follows a 4-byte size.
_SIGNATURES = (
    (0, b"\xff\xd8\xff", ".jpg"),
    (0, b"\x89PNG\r\n\x1a\n", ".png"),
    (8, b"WEBP", ".webp"),
    (0, b"BM", ".bmp"),
    (4, b"ftyp", ".mp4"),
    (0, b"\x1a\x45\xdf\xa3", ".webm"),
    (8, b"AVI ", ".avi"),
    (0, b"GIF8", ".gif"),
)


class RowPart(BaseModel):
    """Base class of rows and their parts: frozen, ignores unknown keys."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class MediaFile(RowPart):
    """An image or video file, given by its path or by its bytes.

    In JSON it is a path, such as ``"images/7.jpg"``. In Parquet it can also be a struct with the keys ``bytes`` and
    ``path``, as written by Hugging Face datasets; if there are bytes, the path is only a name.

    Attributes:
        path: path of the file.
        data: content of the file, if it is embedded in the row.
    """

    path: Annotated[str, Field(max_length=_MAX_PATH)] | None = None
    data: Annotated[bytes, Strict(), Field(max_length=MAX_FILE_BYTES)] | None = Field(default=None, repr=False)

    @model_validator(mode="before")
    @classmethod
    def _from_any_form(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"path": value}
        if isinstance(value, bytes):
            return {"data": value}
        if isinstance(value, dict) and "bytes" in value:
            return {"path": value.get("path"), "data": value["bytes"]}
        if isinstance(value, dict | MediaFile):
            return value
        raise PydanticCustomError("media_type", "expected the path of a file or its bytes")

    @model_validator(mode="after")
    def _names_a_file(self) -> Self:
        if self.data is None and not self.path:
            raise PydanticCustomError("media", "expected the path of a file or its bytes, got neither")
        if self.path and any(ord(letter) < 32 for letter in self.path):
            raise PydanticCustomError("media", "expected a path without control characters")
        return self

    @model_serializer
    def _as_value(self) -> Any:
        return self.path if self.data is None else {"bytes": self.data, "path": self.path}

    @property
    def suffix(self) -> str:
        """Return the extension of the file in lower case, determined by its content if embedded, else by its path."""
        known = next((end for at, mark, end in _SIGNATURES if self.data and self.data[at:].startswith(mark)), None)
        return known or PurePath(self.path or "").suffix.lower()

    @property
    def is_video(self) -> bool:
        """Return True if the extension is that of a video; any other file is opened as an image."""
        return self.suffix in VIDEO_SUFFIXES

    @property
    def identity(self) -> str:
        """Return a name that survives moving the data: the hash of embedded bytes, or the last part of the path."""
        if self.data is not None:
            return hashlib.sha256(self.data).hexdigest()
        return PurePath(self.path or "").name

    def __str__(self) -> str:
        return self.path or f"an embedded file of {len(self.data or b'')} bytes"


class Clip(RowPart):
    """A video file shown as uniformly spaced frames; in JSON ``{"video": "a.mp4", "num_frames": 8}``.

    Attributes:
        video: the file.
        num_frames: exact number of frames to show.
    """

    video: MediaFile
    num_frames: Annotated[int, Field(ge=1, le=MAX_PICTURES)]

    @model_validator(mode="after")
    def _is_a_video(self) -> Self:
        if not self.video.is_video:
            raise PydanticCustomError("media", "expected a video file to take frames from")
        return self


Source = MediaFile | Clip
"""Source of the images of a message: a file provides one image, a clip several."""


def num_pictures(images: tuple[Source, ...]) -> int:
    """Count the images that all sources provide."""
    return sum(source.num_frames if isinstance(source, Clip) else 1 for source in images)


def _form(value: Any) -> str:
    is_clip = isinstance(value, Clip) or (isinstance(value, dict) and value.get("video") is not None)
    return "clip" if is_clip else "file"


def _checked(images: tuple[Source, ...]) -> tuple[Source, ...]:
    if any(isinstance(source, MediaFile) and source.is_video for source in images):
        raise PydanticCustomError(
            "media", 'expected images, got a video: write {"video": path, "num_frames": 8}, or list its frames'
        )
    if num_pictures(images) > MAX_PICTURES:
        raise PydanticCustomError("too_long", f"expected at most {MAX_PICTURES} images")
    return images


Images = Annotated[
    tuple[Annotated[Annotated[MediaFile, Tag("file")] | Annotated[Clip, Tag("clip")], Discriminator(_form)], ...],
    Field(min_length=1, max_length=MAX_PICTURES),
    AfterValidator(_checked),
]
"""Images of a message, in the order of their placeholders."""
