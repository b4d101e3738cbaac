"""Helpers shared by the in-process backends: checkpoint sources, image decoding and chat messages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from flexgym.core.errors import CheckpointError
from flexgym.core.images import ImageReader
from flexgym.judge.backends.base import Picture

CHECKPOINT_KIND = "vision-language checkpoint"
"""Name of a judge's checkpoint in messages."""
_IMAGES = ImageReader(error=lambda _, message: OSError(message))
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Qwen3.5 models write long reasoning unless it is disabled; other chat templates ignore this setting.
TEMPLATE_SETTINGS = {"enable_thinking": False}


def check_source(source: str | Path) -> None:
    """Check that a source is a folder or may be a hub id, so that a clear error precedes those of other libraries.

    Raises:
        CheckpointError: if it is neither.
    """
    could_be_hub_id = isinstance(source, str) and _HUB_ID.fullmatch(source)
    if not (Path(source).expanduser().is_dir() or could_be_hub_id):
        raise CheckpointError(
            f"expected a checkpoint folder or a hub id such as 'owner/name', got {str(source)!r}, which does not exist"
        )


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
