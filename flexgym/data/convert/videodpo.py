"""Converter for VideoDPO (arXiv 2412.14167): pairs of videos, with the winner given by number or by key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flexgym.data.convert.base import Format, both, make, need
from flexgym.data.problems import RowError
from flexgym.data.schema import PreferencePair


def read(values: Mapping[str, Any]) -> PreferencePair:
    """Convert a row of ``pair.json`` with ``frame_caption, video1, video2``, or one with ``caption, chosen, rejected``.

    In ``pair.json``, videos are numbers: 2 n is ``winvideos/n.mp4``, the winner, and 2 n + 1 is ``losevideos/n.mp4``,
    where n has six digits. There are no ties.

    Raises:
        RowError: if the row is invalid.
    """
    if "chosen" in values or "rejected" in values:
        first, second = both(values, "chosen", "rejected")
        winner = 0
    else:
        numbers = both(values, "video1", "video2")
        first, second = map(_path, numbers)
        if numbers[0] % 2 == numbers[1] % 2:
            raise RowError("invalid", f"video1, video2: expected one even and one odd number, got {numbers}")
        winner = numbers[0] % 2
    pair = {"prompt": _caption(values), "kind": "video", "first": first, "second": second, "winner": winner}
    return make(PreferencePair, pair | {"source": "VideoDPO", "id": values.get("id")})


def _path(number: Any) -> str:
    if isinstance(number, bool) or not isinstance(number, int) or number < 0:
        raise RowError("wrong_type", f"video1, video2: expected video numbers, got {number!r:.80}")
    return f"{'losevideos' if number % 2 else 'winvideos'}/{number // 2:06d}.mp4"


def _caption(values: Mapping[str, Any]) -> Any:
    caption = need(values, "frame_caption", "caption", "prompt")
    return caption[0] if isinstance(caption, list) and len(caption) == 1 else caption


FORMAT = Format("videodpo", "VideoDPO: JSON; videos in winvideos/ and losevideos/, or by path", read)
