"""Converters for VideoFeedback (arXiv 2406.15252) and VideoFeedback2 (arXiv 2509.22799): videos with scores by aspect.

Videos of the same prompt are paired: the higher mean score wins, and every aspect has its own winner.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flexgym.data.convert.base import UNLABELED, Format, LeftOut, make, need, number
from flexgym.data.convert.rated import RatedSample, pair_rated
from flexgym.data.problems import RowError

ASPECTS = (
    "visual quality",
    "temporal consistency",
    "dynamic degree",
    "text-to-video alignment",
    "factual consistency",
)
ASPECTS_2 = {
    "visual_score": "visual quality",
    "t2v_score": "text-to-video alignment",
    "phy_score": "physical consistency",
}


def read(values: Mapping[str, Any]) -> RatedSample | LeftOut:
    """Convert a row with ``id, images, text prompt`` and a score of 1 to 4 for each of the five `ASPECTS`.

    Raises:
        RowError: if the row is invalid.
    """
    scores = _scores(values, {name: name for name in ASPECTS})
    if not scores:
        return LeftOut(UNLABELED)
    sample = {"prompt": need(values, "text prompt"), "kind": "video", "files": need(values, "images")}
    return make(RatedSample, sample | {"scores": scores, "source": "VideoFeedback", "id": values.get("id")})


def read_2(values: Mapping[str, Any]) -> RatedSample | LeftOut:
    """Convert a row with ``video_name, prompt, visual_score, t2v_score, phy_score``; the file is ``video_name.mp4``.

    Raises:
        RowError: if the row is invalid.
    """
    scores = _scores(values, ASPECTS_2)
    if not scores:
        return LeftOut(UNLABELED)
    name = need(values, "video_name")
    if not isinstance(name, str):
        raise RowError("wrong_type", f"video_name: expected a text, got {name!r:.80}")
    path = name if name.endswith(".mp4") else f"{name}.mp4"
    sample = {"prompt": need(values, "prompt"), "kind": "video", "files": path, "scores": scores}
    return make(RatedSample, sample | {"source": "VideoFeedback2", "id": name})


def _scores(values: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, float]:
    """Return the scores by aspect; empty if all are missing.

    Raises:
        RowError: if only some are missing.
    """
    found = {aspect: number(values, name) for name, aspect in names.items()}
    scores = {aspect: score for aspect, score in found.items() if score is not None}
    if scores and len(scores) < len(found):
        raise RowError("missing_key", f"expected a score for every aspect, {sorted(set(found) - set(scores))} missing")
    return scores


FORMAT = Format("videofeedback", "VideoFeedback: frames by path, scores from 1 to 4", read, pair_rated)
FORMAT_2 = Format("videofeedback2", "VideoFeedback2: videos by name, scores from 1 to 5", read_2, pair_rated)
