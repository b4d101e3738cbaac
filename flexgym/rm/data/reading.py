"""Reading rows: what is good comes out, what is bad is counted and set aside, and reading goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from flexgym.core.errors import unknown_name
from flexgym.rm.data.media import Folder, check_source
from flexgym.rm.data.problems import BadRows, DataError, DataReport, RowError, Tally, row_error
from flexgym.rm.data.raw import SUFFIXES, RawRow, data_files, read_raw
from flexgym.rm.data.schema import Row

CHECKS = ("decode", "exists", "none")

AnyRow = TypeVar("AnyRow", bound=Row)


@dataclass(frozen=True)
class ReadOptions:
    """How rows are read.

    Attributes:
        folder: what relative paths of media start from; the folder of the data file when None.
        root: media must lie in it, wherever a path or a link leads; ``folder`` when None.
        check: ``"decode"`` reads every image and video once, so that damaged ones are found before training begins;
            ``"exists"`` only looks whether they are there; ``"none"`` does not even that.
        bad: what becomes of bad rows.

    Raises:
        UnknownNameError: no such check.
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
    """A good row and where it begins: its byte in JSON Lines, its number from 0 in Parquet."""

    row: AnyRow
    file: int
    offset: int
    length: int


class RowStream(Generic[AnyRow]):
    """Rows of data files in order, read anew in every pass.

    Args:
        files: JSON Lines or Parquet.
        schema: which kind of rows.
        options: how they are read.
        measure: the length of a row in any unit; may raise a `RowError` to refuse it.

    Raises:
        DataError: a file is of another kind.
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
                    f"{path}: expected a file ending in .jsonl or .parquet; flexgym.rm.data.convert makes one of a"
                    " public format"
                )
        self.schema = schema
        self.options = options
        self._measure = measure
        self._tally: Tally | None = None

    @property
    def report(self) -> DataReport:
        """What the last pass found, up to where it is."""
        return self._tally.report if self._tally else DataReport()

    def __iter__(self) -> Iterator[AnyRow]:
        """The good rows, their media with absolute paths.

        Raises:
            DataError: a file is broken as a whole, too many rows are bad, or none is good.
        """
        return (placed.row for placed in self.placed())

    def placed(self) -> Iterator[Placed[AnyRow]]:
        """The good rows with their places; see `__iter__`."""
        with Tally(self.options.bad, ", ".join(map(str, self.files))) as tally:
            self._tally = tally
            for number, path in enumerate(self.files):
                yield from self._rows_of(number, path, tally)
            tally.finish()

    def _rows_of(self, number: int, path: Path, tally: Tally) -> Iterator[Placed[AnyRow]]:
        folder = media_folder(path, self.options)
        for raw in read_raw(path, set(self.schema.model_fields)):
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
    """Rows of one kind from data files, in a stream.

    Args:
        paths: JSON Lines (``.jsonl``) or Parquet (``.parquet``).
        schema: `PreferencePair`, `SFTRow` or `DPORow`.
        options: how they are read; as `ReadOptions` says by default.

    Returns:
        The stream; its ``report`` tells what was found.

    Raises:
        DataError: a file is missing or of another kind.
    """
    return RowStream(data_files(paths), schema, options or ReadOptions())


def media_folder(path: Path, options: ReadOptions) -> Folder:
    """Where the media of a data file are looked for."""
    base = Path(options.folder or path.parent).expanduser().absolute()
    return Folder(base, Path(options.root or base).expanduser().resolve())


def raw_values(raw: RawRow) -> dict[str, Any]:
    """What stands in a raw row.

    Raises:
        RowError: it cannot be read.
    """
    if raw.values is None:
        raise raw.problem or RowError("not_json", "expected a JSON object")
    return raw.values


def build_row(schema: type[AnyRow], values: dict[str, Any], folder: Folder, *, check: str) -> AnyRow:
    """A checked row.

    Args:
        schema: which kind.
        values: as they stand in a file.
        folder: where its media are.
        check: see `ReadOptions`.

    Raises:
        RowError: a rule is broken, or a file is missing or damaged.
    """
    try:
        row = schema.model_validate(values)
    except ValidationError as error:
        raise row_error(error) from None
    return checked_media(row, folder, check)


def checked_media(row: AnyRow, folder: Folder, check: str) -> AnyRow:
    """The row with absolute paths of its media, after they were checked.

    Raises:
        RowError: a file is missing, damaged or where it must not be.
    """
    found = row.with_files(folder.find if check != "none" else folder.locate)
    if check == "decode":
        for source in found.media:
            check_source(source)
    return found
