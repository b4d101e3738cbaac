"""Converter for Pick-a-Pic v2 (arXiv 2305.01569, ``yuvalkirstain/pickapic_v2``): image pairs embedded in Parquet."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flexgym.data.convert.base import UNLABELED, Format, LeftOut, both, make, need, number
from flexgym.data.problems import RowError
from flexgym.data.schema import PreferencePair

_WINNERS = {(1.0, 0.0): 0, (0.0, 1.0): 1, (0.5, 0.5): None}


def read(values: Mapping[str, Any]) -> PreferencePair | LeftOut:
    """Convert a row with ``caption, jpg_0, jpg_1, label_0, label_1, has_label, ranking_id``.

    Labels are 1 and 0, or one half each for a tie. Rows without ``has_label`` were never rated, and are skipped.

    Raises:
        RowError: if the row is invalid.
    """
    if values.get("has_label") is False:
        return LeftOut(UNLABELED)
    labels = number(values, "label_0"), number(values, "label_1")
    if labels == (None, None):
        return LeftOut(UNLABELED)
    if labels not in _WINNERS:
        raise RowError("invalid", f"label_0, label_1: expected 1 and 0, 0 and 1, or one half each, got {labels}")
    first, second = both(values, "jpg_0", "jpg_1")
    pair = {"prompt": need(values, "caption"), "kind": "image", "first": first, "second": second}
    about = {"source": "Pick-a-Pic v2", "id": values.get("ranking_id"), "winner": _WINNERS[labels]}
    return make(PreferencePair, pair | about)


FORMAT = Format("pickapic", "Pick-a-Pic v2: Parquet; images are embedded in the rows and written to files", read)
