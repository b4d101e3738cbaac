"""Read rows from data files: yield good rows, count and record bad ones, and continue."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from flexgym.core.errors import unknown_name
from flexgym.data.media import Folder, check_source
from flexgym.data.problems import BadRows, DataError, DataReport, RowError, Tally, row_error
from flexgym.data.raw import SUFFIXES, data_files, read_raw
from flexgym.data.raw_row import RawRow
from flexgym.data.schema import Row

CHECKS = ("decode", "exists", "none")

AnyRow = TypeVar("AnyRow", bound=Row)


@dataclass(frozen=True)
class ReadOptions:
    """Settings for reading rows and their media.

    Attributes:
        folder: folder that relative media paths start from; None uses the folder of the data file.
        root: folder that all media must be in, after following links; None uses ``folder``.
        check: ``"decode"`` reads every image and video once, so damaged files are found before training begins;
            ``"exists"`` only checks that the files exist; ``"none"`` checks nothing.
        bad: how bad rows are handled.

    Raises:
        UnknownNameError: if there is no such check.
    """

    folder: Path | None = None
    root: Path | None = None
    check: str = "decode"
    bad: BadRows = field(default_factory=BadRows)

    def __post_init__(self) -> None:
        if self.check not in CHECKS:
            raise unknown_name("check of media", self.check, CHECKS)


@dataclass(frozen=True)
class Placed(Generic[AnyRow]):
    """A good row and its position: a byte offset in JSON Lines and tar shards, an index counted from 0 in Parquet."""

    row: AnyRow
    file: int
    offset: int
    length: int


class RowStream(Generic[AnyRow]):
    """Stream of the rows of data files in order; every pass reads the files again.

    Args:
        files: JSON Lines or Parquet files.
        schema: class of the rows.
        options: how rows are read.
        measure: function that returns the length of a row in any unit; may raise `RowError` to reject it.

    Raises:
        DataError: if a file has another format.
    """

    def __init__(
        self,
        files: Sequence[Path],
        schema: type[AnyRow],
        options: ReadOptions,
        *,
        measure: Callable[[AnyRow], int] | None = None,
    ) -> None:
        self.files = tuple(files)
        for path in self.files:
            if path.suffix.lower() not in SUFFIXES:
                raise DataError(
                    f"{path}: expected a file ending in .jsonl, .parquet or .tar; convert public formats with"
                    " flexgym.data.convert"
                )
        self.schema = schema
        self.options = options
        self._measure = measure
        self._tally: Tally | None = None

    @property
    def report(self) -> DataReport:
        """Return the counts of the last pass, up to its current position."""
        return self._tally.report if self._tally else DataReport()

    def __iter__(self) -> Iterator[AnyRow]:
        """Iterate over the good rows, with absolute paths of their media.

        Raises:
            DataError: if a file is unreadable, too many rows are bad, or none is good.
        """
        return (placed.row for placed in self.placed())

    def placed(self) -> Iterator[Placed[AnyRow]]:
        """Iterate over the good rows with their positions; see `__iter__`."""
        with Tally(self.options.bad, ", ".join(map(str, self.files))) as tally:
            self._tally = tally
            for number, path in enumerate(self.files):
                yield from self._rows_of(number, path, tally)
            tally.finish()

    def _rows_of(self, number: int, path: Path, tally: Tally) -> Iterator[Placed[AnyRow]]:
        folder = media_folder(path, self.options)
        for raw in read_raw(path, self.schema.columns()):
            try:
                row = build_row(self.schema, raw_values(raw), folder, check=self.options.check)
                length = self._measure(row) if self._measure else 0
            except RowError as problem:
                tally.set_aside(raw.place, problem, raw.line if raw.values is None else raw.values)
                continue
            tally.add_good()
            yield Placed(row, number, raw.offset, length)


def read_rows(
    paths: str | Path | Sequence[str | Path], schema: type[AnyRow], *, options: ReadOptions | None = None
) -> RowStream[AnyRow]:
    """Stream the rows of data files.

    Args:
        paths: JSON Lines (``.jsonl``) or Parquet (``.parquet``) files.
        schema: `PreferencePair`, `SFTRow` or `DPORow`.
        options: how rows are read; by default `ReadOptions()`.

    Returns:
        The stream; its ``report`` holds the counts of good and bad rows.

    Raises:
        DataError: if a file is missing or has another format.
    """
    return RowStream(data_files(paths), schema, options or ReadOptions())


def media_folder(path: Path, options: ReadOptions) -> Folder:
    """Return the folder that the media of a data file are in."""
    base = Path(options.folder or path.parent).expanduser().absolute()
    return Folder(base, Path(options.root or base).expanduser().resolve())


def raw_values(raw: RawRow) -> dict[str, Any]:
    """Return the content of a raw row.

    Raises:
        RowError: if it could not be read.
    """
    if raw.values is None:
        raise raw.problem or RowError("not_json", "expected a JSON object")
    return raw.values


def build_row(schema: type[AnyRow], values: dict[str, Any], folder: Folder, *, check: str) -> AnyRow:
    """Validate a row and its media.

    Args:
        schema: class of the row.
        values: content of the row, as read from a file.
        folder: folder of its media.
        check: how media are checked, see `ReadOptions`.

    Raises:
        RowError: if a rule is broken, or a file is missing or damaged.
    """
    try:
        row = schema.model_validate(values)
    except ValidationError as error:
        raise row_error(error) from None
    return checked_media(row, folder, check)


def checked_media(row: AnyRow, folder: Folder, check: str) -> AnyRow:
    """Check the media of a row, and return the row with their absolute paths.

    Raises:
        RowError: if a file is missing, damaged or outside of the root folder.
    """
    found = row.with_files(folder.find if check != "none" else folder.locate)
    if check == "decode":
        for source in dict.fromkeys(found.media):
            check_source(source)
    return found
