"""Names and number of the files in ``records/`` of a run folder, see `flexgym.runs.records`."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

RECORDS = "records"
"""Folder of the records in a run folder."""
HELD_OUT, JUDGED = "held_out", "judged"
"""Kinds of records, with which the names of their files begin."""
MAX_FILES = 32
"""Number of files of each kind; of more, those in between are removed."""
_NAME = re.compile(r"(held_out|judged)_(\d{6,12})\.jsonl")


def record_path(run: Path, kind: str, iteration: int) -> Path:
    """Return the path of the records of an iteration."""
    return run / RECORDS / f"{kind}_{iteration:06d}.jsonl"


def record_files(run: Path, kind: str) -> dict[int, Path]:
    """Return the files of a kind of records by iteration, in order; empty for a run without.

    Args:
        run: the run folder.
        kind: `HELD_OUT` or `JUDGED`.
    """
    folder = run / RECORDS
    paths = folder.iterdir() if folder.is_dir() else ()
    named = [(match, path) for path in paths if (match := _NAME.fullmatch(path.name))]
    return dict(sorted((int(match[2]), path) for match, path in named if match[1] == kind))


def remove_later_records(run: Path, last: int) -> None:
    """Remove the records of iterations after ``last``, which a resumed run trains again."""
    for kind in (HELD_OUT, JUDGED):
        for iteration, path in record_files(run, kind).items():
            if iteration > last:
                path.unlink(missing_ok=True)


def thin_out(run: Path, kind: str) -> None:
    """Remove files between others, those closest to their neighbors first; the first and the last one stay."""
    files = record_files(run, kind)
    while len(files) > MAX_FILES:
        spans = {number: after - before for (before, number), (_, after) in pairwise(pairwise(files))}
        files.pop(min(spans, key=lambda number: (spans[number], number))).unlink(missing_ok=True)
