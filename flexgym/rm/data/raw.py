"""Rows as they stand in a file, one after the other: JSON Lines, Parquet, and lists in one JSON document.

However large a file is, a line, a row group or an element of a list is in memory at a time.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from flexgym.rm.data.problems import DataError, Place, RowError

MAX_LINE = 4 * 2**20
"""Bytes of a line of JSON Lines, or of an element of a JSON list."""

SUFFIXES = (".jsonl", ".ndjson", ".parquet")
"""Of files that rows of our own are read from; formats of others may also be one JSON document."""

_CHUNK = 2**20
_BATCH = 16
_BUFFER = 2**20
_BLANK = " \t\r\n"


@dataclass(frozen=True)
class RawRow:
    """A row before anything is known about it.

    Attributes:
        place: where it stands.
        offset: byte at which its line begins, or its number counted from 0 in other files.
        values: the row; None where it cannot be read.
        problem: why it cannot.
        line: its bytes, up to a bound, where it cannot be read.
    """

    place: Place
    offset: int
    values: dict[str, Any] | None = None
    problem: RowError | None = None
    line: bytes = b""


def data_files(paths: str | Path | Sequence[str | Path]) -> tuple[Path, ...]:
    """The files behind one or several paths.

    Raises:
        DataError: there is none, one of them is no file, or one is given twice.
    """
    files = tuple(Path(path).expanduser() for path in ([paths] if isinstance(paths, str | Path) else paths))
    if not files:
        raise DataError("expected at least one data file, got none")
    for path in files:
        if not path.is_file():
            kind = "is a folder: name the files in it" if path.is_dir() else "does not exist"
            raise DataError(f"expected a data file, got {str(path)!r}, which {kind}")
        if files.count(path) > 1:
            raise DataError(f"the data file {str(path)!r} is given twice")
    return files


def read_raw(path: Path, columns: Collection[str] | None = None) -> Iterator[RawRow]:
    """The rows of a file, by its ending.

    Args:
        path: JSON Lines, Parquet, or ``.json`` with a list of objects or one object per line.
        columns: of Parquet, those that are wanted; all of them when None.

    Raises:
        DataError: the file has another ending, or is broken as a whole.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return read_parquet(path, columns)
    if suffix in (".jsonl", ".ndjson"):
        return read_lines(path)
    if suffix == ".json":
        return read_list(path) if _first_letter(path) == "[" else read_lines(path)
    raise DataError(f"{path}: expected a file ending in .jsonl, .parquet or .json")


def read_lines(path: Path) -> Iterator[RawRow]:
    """The lines of a JSON Lines file; blank ones are passed over."""
    with path.open("rb") as file:
        number = 0
        while True:
            offset = file.tell()
            line = file.readline(MAX_LINE + 1)
            if not line:
                return
            number += 1
            place = Place(path, number)
            if len(line) > MAX_LINE and not line.endswith(b"\n"):
                _skip_line(file)
                problem = RowError("too_long", f"expected a line of at most {MAX_LINE} bytes")
                yield RawRow(place, offset, problem=problem, line=line[:_CHUNK])
            elif line.strip():
                yield parse_line(line, place, offset)


def parse_line(line: bytes, place: Place, offset: int) -> RawRow:
    """The row on a line."""
    try:
        values = json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        problem = RowError("not_json", f"expected one JSON object in UTF-8 on the line: {error}")
        return RawRow(place, offset, problem=problem, line=line)
    return _checked_row(values, place, offset)


def read_list(path: Path) -> Iterator[RawRow]:
    """The elements of a list that is the whole of a JSON document.

    Raises:
        DataError: the document is broken; nothing behind the break can be read.
    """
    with path.open(encoding="utf-8-sig") as file:
        for offset, element in enumerate(_elements(file, path)):
            yield _checked_row(element, Place(path, offset + 1, "row"), offset)


def read_parquet(path: Path, columns: Collection[str] | None = None) -> Iterator[RawRow]:
    """The rows of a Parquet file, unpacked a few at a time; Arrow holds the row group that they are in.

    Args:
        path: the file.
        columns: those that are wanted, as far as there are such; all of them when None.

    Raises:
        DataError: it is no Parquet file, or damaged.
    """
    number = 0
    try:
        with open_parquet(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH, columns=wanted_columns(file, columns), use_threads=False):
                for row in range(batch.num_rows):
                    number += 1
                    values = batch.slice(row, 1).to_pylist()[0]
                    yield RawRow(Place(path, number, "row"), number - 1, values)
    except (OSError, ValueError) as error:  # Arrow's own errors are children of these
        raise DataError(f"{path}: cannot be read as Parquet behind row {number}: {error}") from None


def open_parquet(path: Path) -> Any:
    """A Parquet file that is read piece by piece.

    Raises:
        DataError: it is none.
    """
    # brings Arrow, which readers of JSON Lines do without
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from None


def wanted_columns(file: Any, columns: Collection[str] | None) -> list[str] | None:
    """Those columns of an open Parquet file that are asked for; None for all."""
    return None if columns is None else [name for name in file.schema_arrow.names if name in columns]


def _checked_row(values: Any, place: Place, offset: int) -> RawRow:
    if isinstance(values, dict):
        return RawRow(place, offset, values)
    problem = RowError("wrong_type", f"expected a JSON object, got {type(values).__name__}")
    return RawRow(place, offset, problem=problem, line=json.dumps(values)[:_CHUNK].encode())


def _first_letter(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_CHUNK).decode("utf-8-sig", "replace").lstrip()[:1]


def _skip_line(file: IO[bytes]) -> None:
    while True:
        rest = file.readline(_CHUNK)
        if not rest or rest.endswith(b"\n"):
            return


class _Window:
    """The part of a JSON document that is in memory, and the place in it up to which it has been read."""

    def __init__(self, file: IO[str], path: Path) -> None:
        self._file, self._path = file, path
        self._text, self._at, self._ended = "", 0, False
        self._decoder = json.JSONDecoder()

    def letter(self) -> str:
        """The next letter that is not blank; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _BLANK:
                self._at += 1
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def step(self) -> None:
        """Pass over one letter."""
        self._at += 1

    def value(self) -> Any:
        """The next value."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except (ValueError, RecursionError) as error:
                if len(self._text) - self._at > MAX_LINE or not self._more():
                    raise self.broken(str(error)) from None
                continue
            if end == len(self._text) and self._more():
                continue  # the value may go on behind the window, as 1 does in 12
            self._at = end
            return value

    def broken(self, why: str) -> DataError:
        return DataError(
            f"{self._path}: expected one list of JSON objects, but the document is broken: {why}. What stands behind"
            " the break cannot be read; mend the file, or write one object per line as .jsonl"
        )

    def _more(self) -> bool:
        """Read on; False at the end."""
        try:
            chunk = "" if self._ended else self._file.read(_CHUNK)
        except ValueError as error:
            raise self.broken(str(error)) from None
        self._ended = not chunk
        self._text, self._at = self._text[self._at :] + chunk, 0
        return bool(chunk)


def _elements(file: IO[str], path: Path) -> Iterator[Any]:
    window = _Window(file, path)
    if window.letter() != "[":
        raise window.broken("it does not begin with [")
    window.step()
    if window.letter() == "]":
        return
    while window.letter():
        yield window.value()
        mark = window.letter()
        window.step()
        if mark == "]":
            return
        if mark != ",":
            raise window.broken(f"expected a comma or ] behind an element, got {mark!r}")
    raise window.broken("it ends behind a comma")
