"""Conversations as LLaMA-Factory reads them, the form in which the UnifiedReward family publishes its training sets.

UnifiedReward's rows hold scores and choices, UnifiedReward-Think's thoughts and an answer, UnifiedReward-Flex's a JSON
object; videos are lists of frames. The order of the candidates is part of the text, so it stays as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flexgym.rm.data.convert.base import Format, make, need
from flexgym.rm.data.problems import RowError
from flexgym.rm.data.schema import SFTRow

PLACE = "<image>"
"""Stands in the text where a picture goes; without any, all pictures come first."""

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def read(values: Mapping[str, Any]) -> SFTRow:
    """A row with ``conversations`` (a list of ``from`` and ``value``) and ``images``.

    ``messages`` with ``role`` and ``content`` and a single ``image`` are read as well, and so is ``system``.

    Raises:
        RowError: it is not of this form, or has videos in place of frames.
    """
    turns = need(values, "conversations", "messages")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise RowError("wrong_type", "conversations: expected a list of objects with the keys 'from' and 'value'")
    if values.get("videos") and not values.get("images"):
        raise RowError("wrong_type", "videos: expected frames under 'images'; take frames of the videos first")
    images = need(values, "images", "image")
    messages = [_message(turn) for turn in turns]
    if values.get("system"):
        messages.insert(0, {"role": "system", "content": values["system"]})
    row = {"messages": messages, "images": images if isinstance(images, list) else [images]}
    about = {"id": values.get("id"), "source": values.get("source") or "LLaMA-Factory"}
    return make(SFTRow, row | about)


def _message(turn: Mapping[str, Any]) -> dict[str, Any]:
    role = need(turn, "from", "role")
    if role not in _ROLES:
        raise RowError("invalid", f"from: expected one of {', '.join(_ROLES)}, got {role!r:.80}")
    text = need(turn, "value", "content")
    if isinstance(text, dict):
        text = json.dumps(text, ensure_ascii=False)
    if not isinstance(text, str):
        raise RowError("wrong_type", f"value: expected a text, got {type(text).__name__}")
    return {"role": _ROLES[role], "content": _parts(text) if role in ("human", "user") else text}


def _parts(text: str) -> list[dict[str, str]]:
    """The texts and places of pictures in a message."""
    parts: list[dict[str, str]] = []
    for number, piece in enumerate(text.split(PLACE)):
        parts += [{"type": "image"}] if number else []
        parts += [{"type": "text", "text": piece}] if piece else []
    return parts


FORMAT = Format("llama_factory", "LLaMA-Factory conversations, as of the UnifiedReward family: pictures by path", read)
