"""The text that stands below the pictures: what the judge is to do, with the caption as data inside."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from flexgym.core.errors import ConfigError

Kind = Literal["image", "video"]

PROMPT = "{prompt}"
"""Where the caption goes, as a JSON string with its quotation marks."""

PICTURES = "{pictures}"
"""Where it is said which pictures belong to which candidate; a template may do without."""

MAX_BYTES = 64 * 1024

_FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Template:
    """A text with places for the caption and for a description of the pictures.

    Attributes:
        text: holds ``{prompt}``, and ``{pictures}`` if it likes; other braces mean nothing.

    Raises:
        ConfigError: no place for the caption.
    """

    text: str

    def __post_init__(self) -> None:
        if PROMPT not in self.text:
            raise ConfigError(
                f"prompt template: expected {PROMPT} where the caption goes, found none. It is replaced by the caption "
                f"as a JSON string, quotation marks included."
            )

    def fill(self, caption: str, kind: Kind, counts: tuple[int, ...]) -> str:
        """The text for one request.

        The caption goes in last and is not looked at again, as a JSON string: neither quotation marks, braces nor line
        breaks in it end it. ``<`` is escaped too, since a tokenizer takes ``<|im_end|>`` for the end of the message.

        Args:
            caption: what the candidates were generated for.
            kind: of the candidates.
            counts: how many pictures each candidate has, of a pair or of one alone.
        """
        # Half a surrogate pair cannot be sent as UTF-8.
        sendable = caption.encode("utf-8", "replace").decode("utf-8")
        quoted = json.dumps(sendable, ensure_ascii=False).replace("<", "\\u003c")
        return self.text.replace(PICTURES, describe_pictures(kind, counts)).replace(PROMPT, quoted)


def describe_pictures(kind: Kind, counts: tuple[int, ...]) -> str:
    """The sentences that say which pictures belong to which candidate.

    Args:
        kind: of the candidates.
        counts: how many pictures each of them has, of a pair or of one alone.
    """
    if len(counts) == 1:
        return _describe_one(kind, counts[0])
    if kind == "image":
        return "The first picture of this message is Image 1, the second is Image 2."
    first, second = counts
    return (
        f"This message shows {first + second} pictures. {_span(1, first)} of Video 1, in order of time, from its start "
        f"to its end. {_span(first + 1, first + second)} of Video 2, in the same order."
    )


def _describe_one(kind: Kind, count: int) -> str:
    if kind == "image":
        return "It is the picture of this message."
    if count == 1:
        return "The picture of this message is its only frame."
    return f"The {count} pictures of this message are its frames, in order of time, from its start to its end."


@cache
def built_in_template(name: str) -> Template:
    """A template of this package.

    Args:
        name: of its file; ``"image"`` and ``"video"`` have the categories and JSON keys of UnifiedReward-Flex.

    Raises:
        ConfigError: there is no such file.
    """
    return read_template(_FOLDER / f"{name}.txt")


def read_template(path: str | Path) -> Template:
    """A template from a file, such as one with the wording that a checkpoint was trained on.

    Args:
        path: UTF-8 text of at most 64 KiB that holds ``{prompt}``.

    Raises:
        ConfigError: missing, empty, too large, not UTF-8, or without a place for the caption.
    """
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"prompt template {path}: cannot be read: {error.strerror}.") from None
    if len(data) > MAX_BYTES:
        raise ConfigError(f"prompt template {path}: expected at most {MAX_BYTES} bytes.")
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"prompt template {path}: expected UTF-8 text: {error}.") from None
    if not text.strip():
        raise ConfigError(f"prompt template {path}: the file is empty.")
    try:
        return Template(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _span(first: int, last: int) -> str:
    return f"Picture {first} is the frame" if first == last else f"Pictures {first} to {last} are the frames"
