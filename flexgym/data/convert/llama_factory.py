"""Converter for LLaMA-Factory conversations, the format in which the UnifiedReward family publishes its training sets.

Replies contain scores and choices (UnifiedReward), reasoning and an answer (UnifiedReward-Think), or a JSON object
(UnifiedReward-Flex). Videos are lists of frames. The order of candidates is part of the text, so it is not changed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from flexgym.data.convert.base import Format, make, need
from flexgym.data.problems import RowError
from flexgym.data.schema import SFTRow

_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


def read(values: Mapping[str, Any]) -> SFTRow:
    """Convert a row with ``conversations`` (a list of ``from`` and ``value``) and ``images``.

    The keys ``messages`` with ``role`` and ``content``, a single ``image``, and ``system`` are also supported.

    Raises:
        RowError: if the row is invalid, or has videos instead of frames.
    """
    turns = need(values, "conversations", "messages")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise RowError("wrong_type", "conversations: expected a list of objects with the keys 'from' and 'value'")
    if values.get("videos") and not values.get("images"):
        raise RowError("wrong_type", "videos: expected frames under 'images'; extract frames of the videos first")
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
    return {"role": _ROLES[role], "content": text}


FORMAT = Format("llama_factory", "LLaMA-Factory conversations, as for the UnifiedReward family: images by path", read)
