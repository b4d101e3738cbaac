"""Prompt templates: the instructions after the images, with the caption inserted as data."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from flexgym.core.errors import ConfigError
from flexgym.types import Modality

PROMPT = "{prompt}"
"""Placeholder for the caption, which is inserted as a JSON string including its quotation marks."""

PICTURES = "{pictures}"
"""Optional placeholder for the sentences that say which images belong to which candidate."""

MAX_BYTES = 64 * 1024

_FOLDER = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class Template:
    """Prompt template with placeholders for the caption and for a description of the images.

    Attributes:
        text: text that contains ``{prompt}`` and optionally ``{pictures}``; other braces have no meaning.

    Raises:
        ConfigError: if the placeholder for the caption is missing.
    """

    text: str

    def __post_init__(self) -> None:
        if PROMPT not in self.text:
            raise ConfigError(
                f"prompt template: expected {PROMPT} where the caption goes, found none. It is replaced by the caption"
                " as a JSON string, including its quotation marks."
            )

    def fill(self, caption: str, modality: Modality, counts: tuple[int, ...]) -> str:
        """Fill in the template for one request.

        The caption is inserted last, see `quoted`, and is not scanned for placeholders.

        Args:
            caption: caption that the candidates were generated for.
            modality: modality of the candidates.
            counts: number of images per candidate, for a pair or for a single sample.
        """
        described = self.text.replace(PICTURES, describe_pictures(modality, counts))
        return described.replace(PROMPT, quoted(caption))


def quoted(text: str) -> str:
    """Encode a text as a JSON string for a request, so that it stays data whatever it says.

    Quotation marks, braces and line breaks in it cannot end it. ``<`` is escaped as well, since a tokenizer would read
    ``<|im_end|>`` as the end of the message. Halves of surrogate pairs, which no UTF-8 has, are replaced.
    """
    sendable = text.encode("utf-8", "replace").decode("utf-8")
    return json.dumps(sendable, ensure_ascii=False).replace("<", "\\u003c")


def describe_pictures(modality: Modality, counts: tuple[int, ...]) -> str:
    """Describe which images of the message belong to which candidate.

    Args:
        modality: modality of the candidates.
        counts: number of images per candidate, for a pair or for a single sample.
    """
    if len(counts) == 1:
        return _describe_one(modality, counts[0])
    if modality == "image":
        return "The first picture of this message is Image 1, the second is Image 2."
    first, second = counts
    return (
        f"This message shows {first + second} pictures. {_span(1, first)} of Video 1, in order of time, from its start "
        f"to its end. {_span(first + 1, first + second)} of Video 2, in the same order."
    )


def _describe_one(modality: Modality, count: int) -> str:
    if modality == "image":
        return "It is the picture of this message."
    if count == 1:
        return "The picture of this message is its only frame."
    return f"The {count} pictures of this message are its frames, in order of time, from its start to its end."


@cache
def built_in_template(name: str) -> Template:
    """Load a prompt template that ships with the package.

    Args:
        name: name of its file without extension; ``"image"`` and ``"video"`` use the categories and JSON keys of
            UnifiedReward-Flex.

    Raises:
        ConfigError: if there is no such file.
    """
    return read_template(_FOLDER / f"{name}.txt")


def read_template(path: str | Path) -> Template:
    """Read a prompt template from a file, such as the wording that a checkpoint was trained on.

    Args:
        path: UTF-8 text file of at most 64 KiB that contains ``{prompt}``.

    Raises:
        ConfigError: if the file is missing, empty, too large, not UTF-8, or lacks the placeholder.
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
