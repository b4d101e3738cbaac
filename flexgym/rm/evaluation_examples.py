"""Examples that a judge gets wrong, with reduced samples, for a report."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from flexgym.core.files import write_atomic
from flexgym.data.schema import PreferencePair
from flexgym.judge.protocol import JudgeFailure
from flexgym.rm.evaluation import Said
from flexgym.runs.records import RecordedGroup, group_row, reduced
from flexgym.types import GroupScores, SampleGroup

EXAMPLES = "examples.jsonl"
MAX_EXAMPLES, MAX_OF_CATEGORY = 64, 16
_SIDE = 256


class WrongExamples:
    """Collects pairs of which the judge names the labeled winner in no order; pass `add` to an `Evaluation`."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._counts: Counter[str] = Counter()

    def add(self, row: PreferencePair, group: SampleGroup, said: Said) -> None:
        """Keep a pair if the judge is wrong about it and there is room for its category."""
        category = row.category or ""
        sides = [None if isinstance(outcome, JudgeFailure) else order[outcome.side] for order, outcome in said]
        full = len(self.rows) >= MAX_EXAMPLES or self._counts[category] >= MAX_OF_CATEGORY
        if full or row.winner is None or row.winner in sides:
            return
        self._counts[category] += 1
        scores = GroupScores(
            np.full(2, np.nan, np.float32),
            assessments=tuple(outcome for _, outcome in said),
            pairs=np.array([order for order, _ in said]),
        )
        media = tuple(reduced(sample, _SIDE) for sample in group.samples)
        kept = group_row(RecordedGroup(row.prompt, category, media, scores))
        self.rows.append({"id": row.id, "label": row.winner, **kept})

    def write(self, folder: Path) -> None:
        """Write the pairs to the file `EXAMPLES` of a folder, unless there are none."""
        if self.rows:
            lines = [json.dumps(row, allow_nan=False, ensure_ascii=False) for row in self.rows]
            write_atomic(folder / EXAMPLES, "\n".join([*lines, ""]).encode())
