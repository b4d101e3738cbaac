"""The media that rows name: images, videos, frames of videos, as files or as bytes in the row itself."""

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
"""Of one row: what both candidates of a pair show, a video's frames counted one by one."""

MAX_FILE_BYTES = 512 * 2**20
"""Of one media file."""

_MAX_PATH = 4096
# How files begin, and the ending that says so. The brand of an MP4 stands behind four bytes of length.
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
    """What rows and their parts share: frozen, unknown keys dropped."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class MediaFile(RowPart):
    """An image or video file, by its path or by its bytes.

    In JSON it is its path, such as ``"images/7.jpg"``. In Parquet it can also be a struct with the keys ``bytes`` and
    ``path``, as Hugging Face's datasets write images; where there are bytes, the path is a mere name.

    Attributes:
        path: of the file.
        data: the file itself, where the row holds it.
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
        raise PydanticCustomError("media_type", "expected the path of a file, or its bytes")

    @model_validator(mode="after")
    def _names_a_file(self) -> Self:
        if self.data is None and not self.path:
            raise PydanticCustomError("media", "expected the path of a file, or its bytes, and found neither")
        if self.path and any(ord(letter) < 32 for letter in self.path):
            raise PydanticCustomError("media", "expected a path without control characters")
        return self

    @model_serializer
    def _as_value(self) -> Any:
        return self.path if self.data is None else {"bytes": self.data, "path": self.path}

    @property
    def suffix(self) -> str:
        """The ending that says what the file is, in lower case; what the bytes say counts more than the path."""
        found = next((end for at, mark, end in _SIGNATURES if self.data and self.data[at:].startswith(mark)), None)
        return found or PurePath(self.path or "").suffix.lower()

    @property
    def is_video(self) -> bool:
        """Whether it is a video by its ending; anything else is opened as an image."""
        return self.suffix in VIDEO_SUFFIXES

    @property
    def identity(self) -> str:
        """A name that stays the same where data are moved as a whole: of the bytes, or the last part of the path."""
        if self.data is not None:
            return hashlib.sha256(self.data).hexdigest()
        return PurePath(self.path or "").name

    def __str__(self) -> str:
        return self.path or f"an embedded file of {len(self.data or b'')} bytes"


class Clip(RowPart):
    """A video file that is shown as uniformly spaced frames; in JSON ``{"video": "a.mp4", "num_frames": 8}``.

    Attributes:
        video: the file.
        num_frames: pictures that it is shown as, exactly.
    """

    video: MediaFile
    num_frames: Annotated[int, Field(ge=1, le=MAX_PICTURES)]

    @model_validator(mode="after")
    def _is_a_video(self) -> Self:
        if not self.video.is_video:
            raise PydanticCustomError("media", "expected a video file, of which frames can be taken")
        return self


Source = MediaFile | Clip
"""What pictures of a message come from: a file gives one, a clip several."""


def num_pictures(images: tuple[Source, ...]) -> int:
    """How many pictures these give in all."""
    return sum(source.num_frames if isinstance(source, Clip) else 1 for source in images)


def _form(value: Any) -> str:
    is_clip = isinstance(value, Clip) or (isinstance(value, dict) and value.get("video") is not None)
    return "clip" if is_clip else "file"


def _checked(images: tuple[Source, ...]) -> tuple[Source, ...]:
    if any(isinstance(source, MediaFile) and source.is_video for source in images):
        raise PydanticCustomError(
            "media", 'expected pictures, found a video: write {"video": path, "num_frames": 8}, or list its frames'
        )
    if num_pictures(images) > MAX_PICTURES:
        raise PydanticCustomError("too_long", f"expected at most {MAX_PICTURES} pictures")
    return images


Images = Annotated[
    tuple[Annotated[Annotated[MediaFile, Tag("file")] | Annotated[Clip, Tag("clip")], Discriminator(_form)], ...],
    Field(min_length=1, max_length=MAX_PICTURES),
    AfterValidator(_checked),
]
"""The pictures of a message, in the order of their placeholders."""
