"""What the in-process backends share: sources, pictures as pixels, the message of a request."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from flexgym.core.errors import CheckpointError
from flexgym.judge.backends.base import Picture

_FORMATS = ("JPEG", "PNG")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Models of the Qwen3.5 kind think at length unless they are told not to; other templates ignore the switch.
TEMPLATE_SETTINGS = {"enable_thinking": False}


def check_source(source: str | Path) -> None:
    """Refuse what is neither a folder nor can be a hub id, before a library says so in its own words.

    Raises:
        CheckpointError: there is no such folder.
    """
    could_be_hub_id = isinstance(source, str) and _HUB_ID.fullmatch(source)
    if not (Path(source).expanduser().is_dir() or could_be_hub_id):
        raise CheckpointError(
            f"expected a checkpoint folder or a hub id such as 'owner/name', got {str(source)!r}, which does not exist"
        )


def open_picture(picture: Picture) -> Image.Image:
    """The pixels of a picture.

    Returns:
        RGB, width by height as encoded.

    Raises:
        OSError: neither JPEG nor PNG, or cut short.
    """
    with Image.open(io.BytesIO(picture.data), formats=_FORMATS) as image:
        return image.convert("RGB")


def user_message(text: str, pictures: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The conversation of a request: one user message, pictures first.

    Args:
        text: what follows the pictures.
        pictures: their parts of the message, in the form that the reader of the message expects.
    """
    return [{"role": "user", "content": [*pictures, {"type": "text", "text": text}]}]
