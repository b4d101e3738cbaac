"""Converter for HPDv3 (arXiv 2508.03789, ``MizzenAI/HPDv3``): pairs of images, with the preferred one always first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flexgym.data.convert.base import Format, both, make, need, number
from flexgym.data.schema import PreferencePair


def read(values: Mapping[str, Any]) -> PreferencePair:
    """Convert a row with ``prompt, path1, path2, model1, model2, confidence, choice_dist``; there are no ties.

    Raises:
        RowError: if the row is invalid.
    """
    first, second = both(values, "path1", "path2")
    pair = {"prompt": need(values, "prompt"), "kind": "image", "first": first, "second": second, "winner": 0}
    return make(PreferencePair, pair | {"source": "HPDv3", "confidence": number(values, "confidence")})


FORMAT = Format("hpdv3", "HPDv3: JSON; images by path, relative to the folder of the unpacked archive", read)
