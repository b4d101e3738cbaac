"""Data sets of captioned samples in files."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from flexgym.data.files import MediaFile
from flexgym.data.indexing import IndexedRows
from flexgym.data.pixels import SampleForm, content_digest
from flexgym.data.problems import BadRows, DataError, RowError
from flexgym.data.reading import ReadOptions
from flexgym.data.sample_row import SampleRow

Select = Literal["all", "best", "extremes"]
"""Which samples of a row form a group: all, those with the highest scores, or the best and the worst."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One sample of a data set, which is loaded when it is needed.

    Attributes:
        key: digest of what its pixels follow from.
        load: returns its pixels, uint8 ``[H, W, 3]`` or ``[F, H, W, 3]``.
    """

    key: str
    load: Callable[[], NDArray[np.uint8]]


@dataclass(frozen=True, eq=False)
class Captioned:
    """A caption and G samples of it.

    Attributes:
        caption: the caption.
        samples: the samples.
        scores: float32 ``[G]``, higher for better samples, NaN for those without a score; all 1 where the data set has
            none.
    """

    caption: str
    samples: tuple[Sample, ...]
    scores: NDArray[np.float32]


class CaptionedSet(Protocol):
    """Captions with samples, in random access."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Captioned:
        """Return the row at an index, counted from 0.

        Raises:
            DataError: it cannot be read; the message names file and row.
        """
        ...

    def captions(self) -> list[str]:
        """Return all captions, each once."""
        ...


@dataclass(frozen=True)
class DataFiles:
    """Files of a data set, and how their rows are read.

    Attributes:
        files: JSON Lines, Parquet or WebDataset files, or patterns of their names such as ``"shards/*.tar"``.
        root: folder that all media must be in; None for that of each file.
        select: which samples of a row form a group.
        check: ``"decode"`` reads every file once before training, so that damaged ones are found; ``"exists"`` does
            not.
        max_bad: share of bad rows, which are left out, above which the data set is rejected.
        index: folder that keeps what the first reading found; None for none.
    """

    files: tuple[str, ...]
    root: str | None = None
    select: Select = "all"
    check: Literal["decode", "exists"] = "decode"
    max_bad: float = 0.05
    index: str | None = None

    def paths(self) -> list[str]:
        """Return the files, patterns replaced by what they match, sorted.

        Raises:
            DataError: a pattern matches no file.
        """
        found = []
        for name in self.files:
            matches = [name] if Path(name).expanduser().exists() else sorted(glob.glob(str(Path(name).expanduser())))
            if not matches:
                raise DataError(f"expected a data file or a pattern of several, got {name!r}, which matches none")
            found += matches
        return found

    def open(self, form: SampleForm, group_size: int) -> FileSet:
        """Read every row once, leave out bad ones, and return the others in random access.

        Args:
            form: what samples are brought to.
            group_size: number of samples G of a group.

        Raises:
            DataError: a file is missing or unreadable, too many rows are bad, or none is good.
        """
        folder = None if self.root is None else Path(self.root)
        options = ReadOptions(root=folder, check=self.check, bad=BadRows(max_share=self.max_bad))
        described = json.dumps([asdict(form), group_size, self.select])
        name = hashlib.sha256(json.dumps([self.paths(), described]).encode()).hexdigest()[:20]
        saved = None if self.index is None else Path(self.index).expanduser() / f"index-{name}.npz"
        chooser = Chooser(self.select, group_size)

        def measure(row: SampleRow) -> int:
            for index in chooser.indices(row):
                form.check(row.samples[index])
            return len(row.samples)

        rows = IndexedRows.open(
            self.paths(), SampleRow, options=options, measure=measure, saved=saved, saved_for=described
        )
        return FileSet(rows, form, chooser)


@dataclass(frozen=True)
class Chooser:
    """Chooses the samples of a row that form a group.

    Attributes:
        select: the rule.
        group_size: number of samples G of a group.
    """

    select: Select
    group_size: int

    def indices(self, row: SampleRow) -> list[int]:
        """Return the indices of the chosen samples; of equal scores, the first sample is better.

        Raises:
            RowError: the row has too few samples or, with ``"all"``, another number; or it has no scores to choose by.
        """
        count, wanted = len(row.samples), self.group_size
        if count < wanted or (self.select == "all" and count != wanted):
            many = f"{wanted}" if self.select == "all" else f"at least {wanted}"
            raise RowError("invalid", f"expected {many} samples (rollout.group_size) in a row, got {count}")
        if self.select == "all":
            return list(range(count))
        scores = np.array(row.scores or [np.nan] * count)
        falling = [int(index) for index in np.argsort(-scores, kind="stable") if not np.isnan(scores[index])]
        if len(falling) < wanted:
            raise RowError("invalid", f"expected scores of at least {wanted} samples, got {len(falling)}")
        if self.select == "best":
            return falling[:wanted]
        if scores[falling[0]] == scores[falling[-1]]:
            raise RowError("invalid", "expected samples whose scores differ, got equal ones")
        return [falling[0], falling[-1]]


@dataclass(frozen=True, eq=False)
class FileSet:
    """Rows of files, see `DataFiles.open`.

    Attributes:
        rows: the good rows.
        form: what samples are brought to.
        chooser: chooses the samples of a group.
    """

    rows: IndexedRows[SampleRow]
    form: SampleForm
    chooser: Chooser

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Captioned:
        row = self.rows[index]
        with self._naming(index):
            chosen = self.chooser.indices(row)
            samples = tuple(self._sample(row.samples[each], index) for each in chosen)
        scores = [row.scores[each] if row.scores else 1.0 for each in chosen]
        return Captioned(row.prompt, samples, np.array(scores, np.float32))

    def captions(self) -> list[str]:
        """Return all captions, each once."""
        return list(dict.fromkeys(self.rows[index].prompt for index in range(len(self))))

    def _sample(self, files: Sequence[MediaFile], index: int) -> Sample:
        return Sample(f"{content_digest(files)} {self.form.frames}", partial(self._load, files, index))

    def _load(self, files: Sequence[MediaFile], index: int) -> NDArray[np.uint8]:
        with self._naming(index):
            return self.form.load(files)

    @contextlib.contextmanager
    def _naming(self, index: int) -> Iterator[None]:
        """Turn the error of a row into one that names its file and place."""
        try:
            yield
        except RowError as error:
            raise DataError(f"{self.rows.place(index)}: {error}") from error
