"""``records/``: what a report shows of a run, in small files of bounded number and size.

At each verification a run keeps reduced samples of some held-out prompts, always the same ones with the same seeds, and
some groups that a judge compared, with its assessments. Each file is JSON Lines; samples in it are WebP or MP4, base64.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flexgym.config import RecordSettings
from flexgym.core.files import teaching_disk_errors, write_atomic
from flexgym.core.images import Pixels, fitted, fitted_size
from flexgym.core.media import encode_mp4, encode_webp
from flexgym.judge import Assessment, JudgeFailure, Verdict
from flexgym.runs.record_files import HELD_OUT, JUDGED, record_path, thin_out
from flexgym.runs.verification import Verification
from flexgym.shapes.captions import category_of
from flexgym.types import GroupScores, Prompt

MAX_ASSESSMENTS = 200
"""Number of assessments that are kept of a group."""
_VIDEOS_FOR_IMAGES = 4  # one video costs as much as several images
_EXACT_SIDE = 64  # images up to this size are kept without loss
_MAX_TEXT, _MAX_ITEMS = 1000, 16


@dataclass(frozen=True, eq=False)
class RecordedGroup:
    """A group that a judge compared, with its reduced samples.

    Attributes:
        caption: text of the prompt.
        category: of the prompt; empty if it has none.
        media: WebP images or MP4 videos, of the G samples and then of their references, if there are any.
        scores: of the group, with the assessments.
    """

    caption: str
    category: str
    media: tuple[bytes, ...]
    scores: GroupScores


class Records:
    """Writes the records of a run.

    Args:
        run: the run folder.
        settings: how much is kept.
    """

    def __init__(self, run: Path, settings: RecordSettings) -> None:
        self._run, self._settings = run, settings

    def held_out(self, verification: Verification, iteration: int) -> None:
        """Keep the samples of some prompts of a verification, evenly spaced."""
        count = recorded_count(self._settings.prompts, len(verification.prompts), verification.samples)
        chosen = [number * len(verification.prompts) // count for number in range(count)]
        self._write(HELD_OUT, iteration, [self._sample_row(verification, index) for index in chosen])

    def judged(self, groups: Sequence[RecordedGroup], iteration: int) -> None:
        """Keep groups that a judge compared."""
        self._write(JUDGED, iteration, [group_row(group) for group in groups[: self._settings.groups]])

    def _sample_row(self, verification: Verification, index: int) -> dict[str, Any]:
        return {
            "prompt": verification.prompts[index][:_MAX_TEXT],
            "category": verification.categories[index] if verification.categories else "",
            "score": _number(verification.scores[index]),
            "media": _text_of(reduced(verification.samples[index], self._settings.side)),
        }

    def _write(self, kind: str, iteration: int, rows: Sequence[dict[str, Any]]) -> None:
        if not rows:
            return
        path = record_path(self._run, kind, iteration)
        lines = [json.dumps(row, allow_nan=False, ensure_ascii=False) for row in rows]
        with teaching_disk_errors(f"the samples of iteration {iteration} cannot be written to {path}"):
            path.parent.mkdir(exist_ok=True)
            write_atomic(path, "\n".join([*lines, ""]).encode())
            thin_out(self._run, kind)


def category_of_prompt(prompt: Prompt) -> str:
    """Return the category of a prompt: that of its metadata, else of the small world's captions; empty for none."""
    named = prompt.metadata.get("category")
    return named[:_MAX_TEXT] if isinstance(named, str) else category_of(prompt.text)


def recorded_count(wanted: int, available: int, samples: Pixels) -> int:
    """Return the number of samples to keep: a quarter as many of videos as of images, rounded up."""
    return min(-(-wanted // _VIDEOS_FOR_IMAGES) if samples.ndim == 5 else wanted, available)


def reduced(sample: Pixels, side: int) -> bytes:
    """Encode a sample with its longer side reduced to ``side``: an image as WebP, a video as MP4.

    Args:
        sample: uint8 ``[H, W, 3]`` or ``[F, H, W, 3]``.
        side: in pixels.
    """
    size = fitted_size((sample.shape[-2], sample.shape[-3]), side)
    if sample.ndim == 3:
        return encode_webp(np.asarray(fitted(Image.fromarray(sample), size)), lossless=max(size) <= _EXACT_SIDE)
    return encode_mp4(np.stack([np.asarray(fitted(Image.fromarray(frame), size)) for frame in sample]))


def group_row(group: RecordedGroup) -> dict[str, Any]:
    """Return a group as JSON values: prompt, rewards, samples in base64 and the assessment of each pair."""
    scores = group.scores
    pairs = [] if scores.pairs is None else scores.pairs.tolist()[:MAX_ASSESSMENTS]
    return {
        "prompt": group.caption[:_MAX_TEXT],
        "category": group.category,
        "rewards": [_number(reward) for reward in scores.rewards],
        "media": [_text_of(each) for each in group.media],
        "pairs": [
            {"first": first, "second": second, **_outcome(outcome)}
            for (first, second), outcome in zip(pairs, scores.assessments, strict=False)
        ],
    }


def _outcome(outcome: Any) -> dict[str, Any]:
    """Return an assessment, a verdict or a failure as plain values of bounded size."""
    if isinstance(outcome, JudgeFailure):
        return {"failure": outcome.kind, "detail": outcome.detail[:_MAX_TEXT]}
    if isinstance(outcome, Assessment):
        return _bounded(outcome.model_dump(exclude={"prompt"}))
    return _bounded(dataclasses.asdict(outcome)) if isinstance(outcome, Verdict) else {}


def _bounded(value: Any) -> Any:
    if isinstance(value, str):
        return value[:_MAX_TEXT]
    if isinstance(value, dict):
        return {name: _bounded(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_bounded(inner) for inner in value[:_MAX_ITEMS]]
    return value


def _number(value: Any) -> float | None:
    return round(float(value), 4) if math.isfinite(value) else None


def _text_of(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
