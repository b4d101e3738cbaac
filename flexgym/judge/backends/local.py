"""Helpers shared by the in-process backends: checkpoint sources, image decoding and chat messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from flexgym.core.errors import CheckpointError
from flexgym.core.images import ImageReader
from flexgym.core.json_text import parse_json
from flexgym.judge.backends.base import Picture

CHECKPOINT_KIND = "vision-language checkpoint"
"""Name of a judge's checkpoint in messages."""
_IMAGES = ImageReader(error=lambda _, message: OSError(message))
_JSON_FILES = ("*config.json", "*.index.json", "tokenizer.json", "special_tokens_map.json", "added_tokens.json")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Qwen3.5 models write long reasoning unless it is disabled; other chat templates ignore this setting.
TEMPLATE_SETTINGS = {"enable_thinking": False}


def check_source(source: str | Path) -> None:
    """Check that a source is a folder or may be a hub id, so that a clear error precedes those of other libraries.

    In a folder, the JSON files that those libraries read must be objects within the bounds of `parse_json`.

    Raises:
        CheckpointError: if it is neither, or such a file is not.
    """
    folder = Path(source).expanduser()
    for path in sorted({path for pattern in _JSON_FILES for path in folder.glob(pattern)} if folder.is_dir() else ()):
        _check_object(path)
    could_be_hub_id = isinstance(source, str) and _HUB_ID.fullmatch(source)
    if not (folder.is_dir() or could_be_hub_id):
        raise CheckpointError(
            f"expected a checkpoint folder or a hub id such as 'owner/name', got {str(source)!r}, which does not exist"
        )


def _check_object(path: Path) -> None:
    try:
        value = parse_json(path.read_bytes(), lenient=True)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}; fetch or write the folder again") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(value).__name__}")


def open_picture(picture: Picture) -> Image.Image:
    """Decode an image.

    Returns:
        RGB image with the size of the encoded image.

    Raises:
        OSError: if the data is not an image file, or is truncated or too large.
    """
    return _IMAGES.load(picture.data)


def user_message(text: str, pictures: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Build the conversation of a request: one user message, images first.

    Args:
        text: text after the images.
        pictures: message parts of the images, in the format that the consumer expects.
    """
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}]
