"""Messages of a conversation, and the places of images in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from flexgym.data.files import Clip, RowPart, Source, num_pictures

MAX_TEXT = 200_000
"""Maximum length of one part of a conversation, in characters."""

_MAX_MESSAGES = 64
_FILE_KEYS = ("image", "image_url", "video", "video_url", "url", "path")  # of other formats, in which parts name files
_IMAGE, _VIDEO = "<image>", "<video>"
_WORD = re.compile(f"({_IMAGE}|{_VIDEO})")


class Part(RowPart):
    """Part of a message: a text, or a placeholder for the next image.

    Attributes:
        type: ``"text"`` or ``"image"``.
        text: the text, if the type is ``"text"``.
    """

    type: Literal["text", "image"]
    text: Annotated[str, Field(max_length=MAX_TEXT)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _names_no_file(cls, value: Any) -> Any:
        named = [key for key in _FILE_KEYS if isinstance(value, dict) and value.get(key) is not None]
        if named:
            raise PydanticCustomError(
                "part",
                "expected the files of a row under 'images', got one in a message under {key!r}",
                {"key": named[0]},
            )
        return value

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.text is None) == (self.type == "text"):
            raise PydanticCustomError("part", "expected a text in parts of type 'text', and only in those")
        return self


PICTURE = Part(type="image")
"""Placeholder for an image in a message."""


class Message(RowPart):
    """One turn of a conversation.

    Attributes:
        role: role of the author.
        content: texts and image placeholders in order; in JSON, a plain string is one text.
    """

    role: Literal["system", "user", "assistant"]
    content: Annotated[tuple[Part, ...], Field(min_length=1)]

    @field_validator("content", mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return ({"type": "text", "text": value},) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _shows_pictures_as_user(self) -> Self:
        if self.role != "user" and self.num_pictures:
            raise PydanticCustomError("picture", f"expected images only in user messages, got one in {self.role}")
        return self

    @property
    def num_pictures(self) -> int:
        """Return the number of image placeholders."""
        return sum(part.type == "image" for part in self.content)

    @property
    def text(self) -> str:
        """Return the concatenated texts."""
        return "".join(part.text or "" for part in self.content)


Messages = Annotated[tuple[Message, ...], Field(min_length=1, max_length=_MAX_MESSAGES)]


def check_turns(messages: tuple[Message, ...], *, last: str) -> None:
    """Check that user and assistant take turns after at most one system message, with ``last`` at the end.

    Raises:
        PydanticCustomError: they do not.
    """
    roles = [message.role for message in messages]
    turns = roles[1:] if roles[0] == "system" else roles
    expected = ["user", "assistant"] * len(turns)
    if not turns or turns != expected[: len(turns)] or turns[-1] != last:
        raise PydanticCustomError(
            "turns",
            "expected user and assistant in turns, after at most one system message, with {last} at the end, got"
            " {roles}",
            {"last": last, "roles": ", ".join(roles[:8])},
        )


def with_placeholders(messages: tuple[Message, ...], images: tuple[Source, ...] | None) -> tuple[Message, ...]:
    """Return messages with a placeholder for each image.

    Placeholders are parts of type ``"image"``, or the words ``<image>`` and ``<video>`` in texts of the user, as in the
    formats of LLaVA and LLaMA-Factory: ``<video>`` for all frames of a clip, ``<image>`` for an image or for one frame.
    Without any, all images go before the first text of the user. In texts of the assistant they are only words.

    Args:
        messages: messages of a conversation.
        images: images in the order of their placeholders; None if they are invalid, an error of its own.

    Raises:
        PydanticCustomError: placeholders and images differ in number or order, or there are both kinds of placeholders.
    """
    if images is None:
        return messages
    words = [word for message in messages if message.role == "user" for word in _WORD.findall(message.text)]
    shown = sum(message.num_pictures for message in messages)
    if words and shown:
        raise PydanticCustomError(
            "places",
            "expected placeholders as parts or as words, got {shown} parts and {word} in a text",
            {"shown": shown, "word": words[0]},
        )
    if any(_WORD.search(message.text) for message in messages if message.role == "system"):
        raise PydanticCustomError("places", "expected placeholders only in user messages, got one in system")
    if words:
        lengths = iter(_lengths(words, images))
        return tuple(_with_parts(message, lengths) for message in messages)
    given = num_pictures(images)
    if shown == 0:
        at = next(index for index, message in enumerate(messages) if message.role == "user")
        opened = messages[at].model_copy(update={"content": (PICTURE,) * given + messages[at].content})
        return (*messages[:at], opened, *messages[at + 1 :])
    if shown != given:
        raise PydanticCustomError(
            "places",
            "expected as many placeholders as images, got {shown} placeholders for {given} images",
            {"shown": shown, "given": given},
        )
    return messages


def _lengths(words: list[str], images: tuple[Source, ...]) -> list[int]:
    """Return the number of images that each placeholder stands for."""
    if words == [_VIDEO if isinstance(source, Clip) else _IMAGE for source in images]:
        return [num_pictures((source,)) for source in images]
    if words == [_IMAGE] * num_pictures(images):
        return [1] * len(words)
    clips = sum(isinstance(source, Clip) for source in images)
    raise PydanticCustomError(
        "places",
        "expected as many placeholders as images, got {shown} placeholders for {given} images{clips}",
        {
            "shown": len(words),
            "given": len(images) - clips,
            "clips": f" and {clips} videos, or in another order: {' '.join(words[:8])}"
            if clips or _VIDEO in words
            else "",
        },
    )


def _with_parts(message: Message, lengths: Iterator[int]) -> Message:
    """Return a message whose words for placeholders are replaced by as many parts as each stands for."""
    if message.role != "user":
        return message
    parts: list[Part] = []
    for part in message.content:
        for piece in _WORD.split(part.text or ""):
            if _WORD.fullmatch(piece):
                parts += [PICTURE] * next(lengths)
            elif piece:
                parts.append(Part(type="text", text=piece))
    return message.model_copy(update={"content": tuple(parts)}) if parts else message
