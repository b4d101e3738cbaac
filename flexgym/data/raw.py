"""Read raw rows from files in sequence: JSON Lines, Parquet, WebDataset shards, and JSON documents that are a list.

Memory use does not depend on the file size: only a line, a row group or a list element is in memory at a time.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from flexgym.core.json_text import ROW_DECODER, JsonError, checked_value, parse_json
from flexgym.data.problems import DataError, Place, RowError
from flexgym.data.raw_row import RawRow
from flexgym.data.shards import read_shard

MAX_LINE = 4 * 2**20
"""Maximum size of a line of JSON Lines, or of an element of a JSON list, in bytes."""

SUFFIXES = (".jsonl", ".ndjson", ".parquet", ".tar")
"""Extensions of the files that rows can be read from directly; converters also read JSON documents."""

_CHUNK = 2**20
_BATCH = 16
_BUFFER = 2**20
_BLANK = " \t\r\n"


def data_files(paths: str | Path | Sequence[str | Path]) -> tuple[Path, ...]:
    """Return the data files given by one or more paths.

    Raises:
        DataError: if there are none, a path is not a file, or a file is given twice.
    """
    files = tuple(Path(path).expanduser() for path in ([paths] if isinstance(paths, str | Path) else paths))
    if not files:
        raise DataError("expected at least one data file, got none")
    for path in files:
        if not path.is_file():
            kind = "is a folder: list the files in it" if path.is_dir() else "does not exist"
            raise DataError(f"expected a data file, got {str(path)!r}, which {kind}")
        if files.count(path) > 1:
            raise DataError(f"the data file {str(path)!r} is given twice")
    return files


def read_raw(path: Path, columns: Collection[str] | None = None) -> Iterator[RawRow]:
    """Read the rows of a file in the format given by its extension.

    Args:
        path: JSON Lines, Parquet, a WebDataset shard (``.tar``), or ``.json`` with a list of objects or one object per
            line.
        columns: names of the Parquet columns to read; None reads all.

    Raises:
        DataError: if the extension is unknown, or the file is unreadable.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return read_parquet(path, columns)
    if suffix == ".tar":
        return read_shard(path)
    if suffix in (".jsonl", ".ndjson"):
        return read_lines(path)
    if suffix == ".json":
        return read_list(path) if _first_character(path) == "[" else read_lines(path)
    raise DataError(f"{path}: expected a file ending in .jsonl, .parquet, .tar or .json")


def read_lines(path: Path) -> Iterator[RawRow]:
    """Read the lines of a JSON Lines file; blank lines are skipped."""
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
    """Parse the row on a line."""
    try:
        values = parse_json(line, nan=True)
    except ValueError as error:
        problem = RowError("not_json", f"expected one JSON object in UTF-8 on the line: {error}")
        return RawRow(place, offset, problem=problem, line=line)
    return _checked_row(values, place, offset)


def read_list(path: Path) -> Iterator[RawRow]:
    """Read the elements of a JSON document that is a list.

    Raises:
        DataError: if the document is invalid; nothing after the error can be read.
    """
    with path.open(encoding="utf-8-sig") as file:
        for offset, element in enumerate(_elements(file, path)):
            yield _checked_row(element, Place(path, offset + 1, "row"), offset)


def read_parquet(path: Path, columns: Collection[str] | None = None) -> Iterator[RawRow]:
    """Read the rows of a Parquet file, a few at a time; Arrow keeps the current row group in memory.

    Args:
        path: the file.
        columns: names of the columns to read, if they exist; None reads all.

    Raises:
        DataError: if it is not a Parquet file, or is damaged.
    """
    number = 0
    try:
        with open_parquet(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH, columns=wanted_columns(file, columns), use_threads=False):
                for row in range(batch.num_rows):
                    number += 1
                    values = batch.slice(row, 1).to_pylist()[0]
                    yield RawRow(Place(path, number, "row"), number - 1, values)
    except (OSError, ValueError) as error:  # Arrow's own errors are subclasses of these
        raise DataError(f"{path}: cannot be read as Parquet after row {number}: {error}") from None


def open_parquet(path: Path) -> Any:
    """Open a Parquet file for reading in pieces.

    Raises:
        DataError: if it is not a Parquet file.
    """
    # Imported here because readers of JSON Lines do not need Arrow.
    import pyarrow.parquet

    try:
        return pyarrow.parquet.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as Parquet: {error}") from None


def wanted_columns(file: Any, columns: Collection[str] | None) -> list[str] | None:
    """Return the requested columns that an open Parquet file has; None for all."""
    return None if columns is None else [name for name in file.schema_arrow.names if name in columns]


def _checked_row(values: Any, place: Place, offset: int) -> RawRow:
    if isinstance(values, dict):
        return RawRow(place, offset, values)
    problem = RowError("wrong_type", f"expected a JSON object, got {type(values).__name__}")
    return RawRow(place, offset, problem=problem, line=json.dumps(values)[:_CHUNK].encode())


def _first_character(path: Path) -> str:
    with path.open("rb") as file:
        return file.read(_CHUNK).decode("utf-8-sig", "replace").lstrip()[:1]


def _skip_line(file: IO[bytes]) -> None:
    while True:
        rest = file.readline(_CHUNK)
        if not rest or rest.endswith(b"\n"):
            return


class _Window:
    """Sliding window over a JSON document: the text in memory, and the position up to which it has been parsed."""

    def __init__(self, file: IO[str], path: Path) -> None:
        self._file, self._path = file, path
        self._text, self._at, self._ended = "", 0, False
        self._decoder = ROW_DECODER

    def peek(self) -> str:
        """Return the next character that is not blank, without consuming it; empty at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _BLANK:
                self._at += 1
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def step(self) -> None:
        """Consume one character of the document."""
        self._at += 1

    def value(self) -> Any:
        """Parse and consume the next value."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
                checked_value(value, self._text[self._at : end])
            except (JsonError, RecursionError) as error:
                raise self.broken(str(error)) from None
            except ValueError as error:
                if len(self._text) - self._at > MAX_LINE or not self._more():
                    raise self.broken(str(error)) from None
                continue
            if end == len(self._text) and self._more():
                continue  # the value may continue after the window, as 1 does in 12
            self._at = end
            return value

    def broken(self, why: str) -> DataError:
        """Create the error for an invalid document."""
        return DataError(
            f"{self._path}: expected one list of JSON objects, but the document is invalid: {why}. Nothing after the"
            " error can be read; fix the file, or write one object per line as .jsonl"
        )

    def _more(self) -> bool:
        """Read the next chunk; False at the end of the file."""
        try:
            chunk = "" if self._ended else self._file.read(_CHUNK)
        except ValueError as error:
            raise self.broken(str(error)) from None
        self._ended = not chunk
        self._text, self._at = self._text[self._at :] + chunk, 0
        return bool(chunk)


def _elements(file: IO[str], path: Path) -> Iterator[Any]:
    window = _Window(file, path)
    if window.peek() != "[":
        raise window.broken("it does not begin with [")
    window.step()
    if window.peek() == "]":
        return
    while window.peek():
        yield window.value()
        mark = window.peek()
        window.step()
        if mark == "]":
            return
        if mark != ",":
            raise window.broken(f"expected a comma or ] after an element, got {mark!r}")
    raise window.broken("it ends after a comma")
