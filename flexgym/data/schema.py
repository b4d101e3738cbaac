"""Schemas of the three kinds of rows that judges are trained on.

- `PreferencePair`: two candidates for one prompt and the winner, as labeled by people or by rules.
- `SFTRow`: a conversation with images whose last message the judge learns to write.
- `DPORow`: a conversation with images and two replies, of which one is better.

Field names are the keys in JSON Lines and the columns in Parquet. Unknown keys are ignored, so files can contain more
than is needed. Conversations have the format that TRL's trainers accept:
``{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "..."}]}``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo, field_validator, model_validator
from pydantic.functional_serializers import PlainSerializer
from pydantic_core import PydanticCustomError

from flexgym.data.files import Clip, Images, MediaFile, RowPart, Source
from flexgym.data.messages import Message, Messages, check_turns, with_placeholders
from flexgym.judge.reply import MAX_CHARACTERS as MAX_REPLY
from flexgym.types import Modality

MAX_PROMPT = 20_000
"""Maximum length of a caption, in characters."""

_MAX_NAME = 500
_MAX_ASPECTS = 64

Change = Callable[[MediaFile], MediaFile]


def _not_blank(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("blank", "expected a text, got only whitespace")
    return value


def _number_as_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _side(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)  # pandas converts a column of integers to floats if it contains a tie
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise PydanticCustomError("side_type", "expected 0 for the first, 1 for the second, or null for a tie")


def _as_mapping(value: Any) -> Any:
    # Arrow represents maps as lists of pairs.
    is_map = isinstance(value, list) and all(isinstance(item, tuple) and len(item) == 2 for item in value)
    return dict(value or ()) if is_map or value is None else value


def _as_files(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else (value,)


def _one_or_all(files: tuple[MediaFile, ...]) -> Any:
    values = [file.model_dump() for file in files]
    return values[0] if len(values) == 1 else values


def _reply_text(value: Any) -> Any:
    """Return the text of a reply, which may be given as a list of one assistant message."""
    try:
        return Reply.model_validate(value).text if isinstance(value, list | tuple) else value
    except ValueError:
        raise PydanticCustomError("reply_type", "expected a text, or a list of one assistant message") from None


Side = Annotated[Literal[0, 1] | None, BeforeValidator(_side)]
"""Winner of a pair: 0 for the first candidate, 1 for the second, None for a tie."""
Label = Annotated[str, Field(max_length=_MAX_NAME)]
PromptText = Annotated[str, Field(max_length=MAX_PROMPT), AfterValidator(_not_blank)]
ReplyText = Annotated[
    str,
    Field(max_length=MAX_REPLY),
    BeforeValidator(_reply_text),
    AfterValidator(_not_blank),
]
Aspects = Annotated[dict[Label, Side], Field(max_length=_MAX_ASPECTS), BeforeValidator(_as_mapping)]
Candidate = Annotated[
    tuple[MediaFile, ...],
    BeforeValidator(_as_files),
    PlainSerializer(_one_or_all),
    Field(min_length=1, max_length=4096),
]


class Row(RowPart):
    """Base class of all kinds of rows.

    Attributes:
        id: name of the row in its source.
        source: name of the data set, such as ``"HPDv3"``.
        category: category of the prompt, used to break down results.
    """

    id: Annotated[Label, BeforeValidator(_number_as_text)] | None = None
    source: Label | None = None
    category: Label | None = None

    @classmethod
    def columns(cls) -> frozenset[str]:
        """Return the keys that are read of a row; further columns of a Parquet file are left unread."""
        return frozenset(cls.model_fields)

    @property
    def media(self) -> tuple[Source, ...]:
        """Return all media of the row, in order."""
        raise NotImplementedError

    def with_files(self, change: Change) -> Self:
        """Return the row with ``change`` applied to every media file."""
        raise NotImplementedError

    def as_values(self) -> dict[str, Any]:
        """Return the row as plain values without defaults; embedded files are bytes."""
        return self.model_dump(exclude_defaults=True)


class PreferencePair(Row):
    """Two candidates for one prompt, and the winner.

    Attributes:
        prompt: prompt that both candidates were generated for.
        kind: ``"image"`` or ``"video"``.
        first: the candidate shown first: an image, a video file, or the frames of a video in order. In JSON, one path
            or a list of paths.
        second: the candidate shown second.
        winner: 0 for the first, 1 for the second, None (``null``) for a tie; the key is required.
        aspects: winners by aspect, such as ``{"alignment": 0, "quality": None}``.
        confidence: confidence of the label, 0 to 1, such as the winner's share of the votes.
    """

    prompt: PromptText
    kind: Modality
    first: Candidate
    second: Candidate
    winner: Side
    aspects: Aspects = Field(default_factory=dict)
    confidence: Annotated[float, Field(ge=0.0, le=1.0)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_both_sides(cls, value: Any) -> Any:
        if isinstance(value, dict):
            there = [side for side in ("first", "second") if value.get(side) not in (None, "", [], ())]
            if len(there) == 1:
                other = "second" if there == ["first"] else "first"
                raise PydanticCustomError("one_side", f"expected two candidates, but {other!r} is missing")
        return value

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        for name, files in (("first", self.first), ("second", self.second)):
            if self.kind == "image" and (len(files) > 1 or files[0].is_video):
                raise PydanticCustomError("media", f"{name}: expected one image, since the pair is of kind 'image'")
            if len(files) > 1 and any(file.is_video for file in files):
                raise PydanticCustomError("media", f"{name}: expected one video file or a list of frames, got a mix")
        if self.first == self.second:
            raise PydanticCustomError("same", "expected two different candidates, got the same one twice")
        return self

    def swapped(self) -> Self:
        """Return the pair with its candidates and labels exchanged."""
        return self.model_copy(
            update={
                "first": self.second,
                "second": self.first,
                "winner": _other(self.winner),
                "aspects": {name: _other(side) for name, side in self.aspects.items()},
            }
        )

    @property
    def media(self) -> tuple[Source, ...]:
        """Return the media of the first candidate, then those of the second."""
        return self.first + self.second

    def with_files(self, change: Change) -> Self:
        """Return the pair with ``change`` applied to the files of both candidates."""
        sides = {name: tuple(map(change, getattr(self, name))) for name in ("first", "second")}
        return self.model_copy(update=sides)


class Reply(RowPart):
    """A reply in the format of TRL's preference rows: a list of one assistant message."""

    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        return {"messages": value}

    @property
    def text(self) -> str:
        """Return the text of the assistant message.

        Raises:
            ValueError: if the message has another role.
        """
        if self.messages[0].role != "assistant":
            raise ValueError(self.messages[0].role)
        return self.messages[0].text


class _Conversation(Row):
    """Base class of rows whose media are the images of a conversation."""

    images: Images

    @model_validator(mode="before")
    @classmethod
    def _shows_all(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("videos"):
            raise PydanticCustomError(
                "media",
                'expected videos among the images, as {"video": path, "num_frames": 8}, got them under \'videos\'',
            )
        return value

    @property
    def media(self) -> tuple[Source, ...]:
        """Return the images of the conversation."""
        return self.images

    def with_files(self, change: Change) -> Self:
        """Return the row with ``change`` applied to every image and clip."""
        return self.model_copy(update={"images": tuple(_changed(source, change) for source in self.images)})


class SFTRow(_Conversation):
    """A conversation with images whose last message is the training target.

    Attributes:
        images: images in the order of their placeholders.
        messages: an optional system message, then user and assistant in turns; the assistant's is last. Placeholders
            of images are parts or words, see `flexgym.data.messages.with_placeholders`; without any, all images go
            before the user's first text.
    """

    messages: Messages

    @field_validator("messages")
    @classmethod
    def _is_a_conversation(cls, messages: tuple[Message, ...], info: ValidationInfo) -> tuple[Message, ...]:
        check_turns(messages, last="assistant")
        if not messages[-1].text.strip():
            raise PydanticCustomError("blank", "expected a reply in the last message, got only whitespace")
        if len(messages[-1].text) > MAX_REPLY:
            raise PydanticCustomError("too_long", f"expected a reply of at most {MAX_REPLY} characters")
        return with_placeholders(messages, info.data.get("images"))

    @property
    def prompt(self) -> tuple[Message, ...]:
        """Return all messages except the last."""
        return self.messages[:-1]

    @property
    def reply(self) -> str:
        """Return the text of the last message."""
        return self.messages[-1].text


class DPORow(_Conversation):
    """A conversation with images and two replies.

    Attributes:
        images: images in the order of their placeholders.
        prompt: messages up to the last one of the user.
        chosen: the better reply, as a text or as a list of one assistant message.
        rejected: the worse reply.
        rule: why the chosen reply is better, such as ``"one_right"`` or ``"both_right"``.
    """

    prompt: Messages
    chosen: ReplyText
    rejected: ReplyText
    rule: Label | None = None

    @field_validator("prompt")
    @classmethod
    def _is_a_conversation(cls, messages: tuple[Message, ...], info: ValidationInfo) -> tuple[Message, ...]:
        check_turns(messages, last="user")
        return with_placeholders(messages, info.data.get("images"))

    @model_validator(mode="after")
    def _differs(self) -> Self:
        if self.chosen == self.rejected:
            raise PydanticCustomError("same", "expected two different replies, got the same one twice")
        return self


def _other(side: Literal[0, 1] | None) -> Literal[0, 1] | None:
    return None if side is None else (1 if side == 0 else 0)


def _changed(source: Source, change: Change) -> Source:
    return source.model_copy(update={"video": change(source.video)}) if isinstance(source, Clip) else change(source)
