"""Create preference pairs from samples that were rated individually."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field

from flexgym.core.json_text import parse_json
from flexgym.data.convert.base import higher
from flexgym.data.files import Source
from flexgym.data.schema import Candidate, Change, Label, PreferencePair, PromptText, Row
from flexgym.judge.inputs import frame_indices
from flexgym.types import Modality

PAIRS_PER_PROMPT = 8
"""Maximum number of pairs per prompt, so that prompts with many samples do not dominate."""

_SAMPLES_PER_PROMPT = 256


class RatedSample(Row):
    """One image or video with its scores.

    Attributes:
        prompt: prompt that the sample was generated for.
        kind: ``"image"`` or ``"video"``.
        files: the image, the video file, or the frames of the video.
        scores: score by aspect; higher is better.
    """

    prompt: PromptText
    kind: Modality
    files: Candidate
    scores: Annotated[dict[Label, float], Field(min_length=1)]

    @property
    def media(self) -> tuple[Source, ...]:
        """Return the files of the sample."""
        return self.files

    def with_files(self, change: Change) -> Self:
        """Return the sample with ``change`` applied to every file."""
        return self.model_copy(update={"files": tuple(map(change, self.files))})


def pair_rated(samples: Iterable[Row]) -> Iterator[PreferencePair]:
    """Pair samples of the same prompt, with prompts in order of their first sample.

    Samples are stored on disk until all have been read, since those of one prompt may be anywhere in the data.

    Args:
        samples: `RatedSample` rows without embedded files.

    Yields:
        Up to `PAIRS_PER_PROMPT` pairs per prompt.
    """
    with tempfile.TemporaryDirectory() as folder, contextlib.closing(sqlite3.connect(Path(folder) / "rows.db")) as rows:
        rows.execute("CREATE TABLE samples (number INTEGER PRIMARY KEY, prompt BLOB, row TEXT)")
        rows.executemany("INSERT INTO samples (prompt, row) VALUES (?, ?)", map(_record, samples))
        rows.execute("CREATE INDEX by_prompt ON samples (prompt, number)")
        prompts = rows.execute("SELECT prompt FROM samples GROUP BY prompt HAVING COUNT(*) > 1 ORDER BY MIN(number)")
        for (prompt,) in prompts:
            query = "SELECT row FROM samples WHERE prompt = ? ORDER BY number LIMIT ?"
            found = rows.execute(query, (prompt, _SAMPLES_PER_PROMPT))
            yield from _pairs([RatedSample.model_validate(parse_json(row, nan=True)) for (row,) in found])


def _record(sample: Row) -> tuple[bytes, str]:
    assert isinstance(sample, RatedSample)
    return hashlib.sha256(sample.prompt.encode()).digest(), json.dumps(sample.as_values())


def _pairs(group: Sequence[RatedSample]) -> Iterator[PreferencePair]:
    """Pair neighbors in a ring, then samples at distance two, and so on; space out the pairs of the last distance."""
    wanted = PAIRS_PER_PROMPT
    for distance in range(1, len(group) // 2 + 1):
        starts = range(distance if 2 * distance == len(group) else len(group))
        met = [(group[start], group[(start + distance) % len(group)]) for start in starts]
        different = [(first, second) for first, second in met if first.files != second.files]
        if not wanted:
            return
        chosen = frame_indices(len(different), wanted) if different else ()
        yield from (_pair(*different[index]) for index in chosen)
        wanted -= len(chosen)


def _pair(first: RatedSample, second: RatedSample) -> PreferencePair:
    shared = [name for name in first.scores if name in second.scores]
    return PreferencePair(
        id=f"{first.id} {second.id}"[:500] if first.id and second.id else None,
        source=first.source,
        prompt=first.prompt,
        kind=first.kind,
        first=first.files,
        second=second.files,
        winner=higher(_mean(first), _mean(second)),
        aspects={name: higher(first.scores[name], second.scores[name]) for name in shared},
    )


def _mean(sample: RatedSample) -> float:
    return sum(sample.scores.values()) / len(sample.scores)
