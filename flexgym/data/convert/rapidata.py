"""Converter for Rapidata's text-to-video preferences (``Rapidata/text-2-video-human-preferences*``), weighted votes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from flexgym.data.convert.base import UNLABELED, Format, LeftOut, both, higher, make, need, number
from flexgym.data.problems import RowError
from flexgym.data.schema import PreferencePair

OVERALL = "Preference"
"""Question that determines the winner; other questions, such as Coherence and Alignment, become aspects."""

_COLUMN = re.compile(r"weighted_results1_(\w+)")


def read(values: Mapping[str, Any]) -> PreferencePair | LeftOut:
    """Convert a row with ``prompt, file_name1, file_name2, weighted_results{1,2}_{Preference,Coherence,Alignment}``.

    The winner has more weighted votes; equal votes are a tie. Embedded videos (``video1``, ``video2``) take precedence
    over file names.

    Raises:
        RowError: if the row is invalid.
    """
    votes = _votes(values, OVERALL)
    if votes is None:
        return LeftOut(UNLABELED)
    first, second = _videos(values)
    names = [match[1] for name in values if (match := _COLUMN.fullmatch(name)) and match[1] != OVERALL]
    aspects = {name.lower(): found for name in names if (found := _votes(values, name)) is not None}
    pair = {
        "prompt": need(values, "prompt"),
        "kind": "video",
        "first": first,
        "second": second,
        "winner": higher(*votes),
        "aspects": {name: higher(*found) for name, found in aspects.items()},
        "confidence": max(votes) / sum(votes) if sum(votes) else None,
        "source": "Rapidata",
    }
    return make(PreferencePair, pair)


def _votes(values: Mapping[str, Any], question: str) -> tuple[float, float] | None:
    first, second = (number(values, f"weighted_results{side}_{question}") for side in (1, 2))
    if first is None and second is None:
        return None
    if first is None or second is None or min(first, second) < 0:
        raise RowError("invalid", f"{question}: expected non-negative votes for both videos, got {first}, {second}")
    return first, second


def _videos(values: Mapping[str, Any]) -> tuple[Any, Any]:
    embedded = [values.get(name) for name in ("video1", "video2")]
    if all(isinstance(video, bytes) or (isinstance(video, dict) and video.get("bytes")) for video in embedded):
        return embedded[0], embedded[1]
    return both(values, "file_name1", "file_name2")


FORMAT = Format("rapidata", "Rapidata's text-to-video preferences: Parquet; videos by name, in a separate folder", read)
