"""Random access to rows for training: keep only the positions of rows in memory, and read rows on demand."""

from __future__ import annotations

import hashlib
import io
import json
import operator
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, Self

import numpy as np
from numpy.typing import NDArray

from flexgym.core.files import write_atomic
from flexgym.core.json_text import parse_json
from flexgym.data.problems import DataError, DataReport, Place, RowError
from flexgym.data.raw import MAX_LINE, data_files, open_parquet, parse_line, wanted_columns
from flexgym.data.raw_row import RawRow
from flexgym.data.reading import AnyRow, ReadOptions, RowStream, build_row, media_folder, raw_values
from flexgym.data.shards import shard_row

MAX_GROUP_BYTES = 2**30
"""Maximum uncompressed size of a Parquet row group in bytes, since reading one row requires reading its whole group."""

_GROUPS_KEPT = 2
_VERSION = 1


class IndexedRows(Generic[AnyRow]):
    """Valid rows of data files with random access by index.

    Create it with `IndexedRows.open`. It can be pickled and sent to other processes that see the same files. Rows are
    read from the files on access, by any number of processes concurrently. Parquet is read by row group, and the last
    two groups are cached, so files with large groups of embedded images are slow in random order; `write_rows` converts
    them to JSON Lines, with image files stored by `MediaStore`.

    Attributes:
        files: the data files.
        schema: class of the rows.
        options: how rows are read.
        lengths: int64 ``[N]``, length of each row according to ``measure``, or zeros.
        report: counts of good and bad rows from the indexing pass.
    """

    def __init__(
        self,
        stream: RowStream[AnyRow],
        report: DataReport,
        *,
        file_numbers: NDArray[np.int32],
        offsets: NDArray[np.int64],
        lengths: NDArray[np.int64],
    ) -> None:
        self.files, self.schema, self.options = stream.files, stream.schema, stream.options
        self.report = report
        self.lengths = lengths
        self._file_numbers = file_numbers
        self._offsets = offsets
        self._groups: OrderedDict[tuple[int, int], Any] = OrderedDict()

    @classmethod
    def open(
        cls,
        paths: str | Path | Sequence[str | Path],
        schema: type[AnyRow],
        *,
        options: ReadOptions | None = None,
        measure: Callable[[AnyRow], int] | None = None,
        saved: Path | None = None,
        saved_for: str = "",
    ) -> Self:
        """Read the files once to validate every row and record its position.

        Args:
            paths: JSON Lines or Parquet files, or WebDataset shards.
            schema: class of the rows, such as `PreferencePair`.
            options: how rows are read, and how bad rows are handled.
            measure: function that returns the length of a row in any unit; may raise `RowError` to reject it.
            saved: cache file of the index. If it holds an index of the same files (by size and modification time) and
                the same settings, that index is used and no data is read.
            saved_for: further dependencies of the index, such as the name of ``measure`` and its settings.

        Raises:
            DataError: if a file is missing or unreadable, too many rows are bad, or none is good.
        """
        stream = RowStream(data_files(paths), schema, options or ReadOptions(), measure=measure)
        mark = _fingerprint(stream, saved_for)
        found = _load(saved, mark) if saved else None
        if found is None:
            found = _read_through(stream)
            if saved:
                _save(saved, mark, found)
        report, arrays = found
        return cls(stream, report, **arrays)

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, index: int) -> AnyRow:
        """Read a row, with absolute paths of its media.

        Args:
            index: 0 to N - 1, or -N to -1 to count from the end.

        Raises:
            IndexError: if there is no such row.
            DataError: if the files have changed since they were indexed.
        """
        number = range(len(self))[operator.index(index)]
        path = self.files[self._file_numbers[number]]
        offset = int(self._offsets[number])
        try:
            raw = self._raw(path, int(self._file_numbers[number]), offset)
            return build_row(self.schema, raw_values(raw), media_folder(path, self.options), check="none")
        except (RowError, OSError) as error:
            raise DataError(
                f"{path}: row {number} was valid when the file was indexed, but no longer is: {error}. The file has"
                " changed; start again to index it"
            ) from None

    def place(self, index: int) -> str:
        """Return the file of a row and where in it the row is, for messages."""
        path, offset = self.files[self._file_numbers[index]], int(self._offsets[index])
        if path.suffix.lower() == ".parquet":
            return str(Place(path, offset + 1, "row"))
        if path.suffix.lower() == ".tar":
            return f"{path}, row at byte {offset}"
        with path.open("rb") as lines:
            return str(Place(path, lines.read(offset).count(b"\n") + 1))

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_groups": OrderedDict()}

    def _raw(self, path: Path, file: int, offset: int) -> RawRow:
        if path.suffix.lower() == ".parquet":
            return RawRow(Place(path, offset + 1, "row"), offset, self._parquet_row(path, file, offset))
        if path.suffix.lower() == ".tar":
            return shard_row(path, offset)
        # Open the file on each access, since forked processes would share a file position.
        with path.open("rb") as lines:
            lines.seek(offset)
            return parse_line(lines.readline(MAX_LINE + 1), Place(path, 0), offset)

    def _parquet_row(self, path: Path, file: int, number: int) -> dict[str, Any]:
        for (kept, start), group in self._groups.items():
            if kept == file and start <= number < start + group.num_rows:
                self._groups.move_to_end((kept, start))
                return _row_of(group, number - start)
        start, group = _read_group(path, number, self.schema.columns())
        self._groups[file, start] = group
        while len(self._groups) > _GROUPS_KEPT:
            self._groups.popitem(last=False)
        return _row_of(group, number - start)


_Arrays = dict[str, NDArray[Any]]


def _read_through(stream: RowStream[Any]) -> tuple[DataReport, _Arrays]:
    columns = {"file_numbers": np.int32, "offsets": np.int64, "lengths": np.int64}
    pages: dict[str, list[NDArray[Any]]] = {name: [] for name in columns}
    page: list[tuple[int, int, int]] = []

    def flush() -> None:
        for (name, kind), values in zip(columns.items(), zip(*page, strict=True), strict=True):
            pages[name].append(np.array(values, kind))
        page.clear()

    for placed in stream.placed():
        page.append((placed.file, placed.offset, placed.length))
        if len(page) == 65_536:  # tuples take ten times the memory of arrays
            flush()
    if page:
        flush()
    return stream.report, {name: np.concatenate(parts) for name, parts in pages.items()}


def _read_group(path: Path, number: int, columns: Collection[str]) -> tuple[int, Any]:
    """Read the row group that contains a row, and return it with the index of its first row."""
    with open_parquet(path) as file:
        start = 0
        for group in range(file.metadata.num_row_groups):
            about = file.metadata.row_group(group)
            if number < start + about.num_rows:
                if about.total_byte_size > MAX_GROUP_BYTES:
                    raise DataError(
                        f"{path}: row group {group} takes {about.total_byte_size} bytes, expected at most"
                        f" {MAX_GROUP_BYTES} for random access: write smaller groups, or JSON Lines with separate image"
                        " files"
                    )
                return start, file.read_row_group(group, columns=wanted_columns(file, columns), use_threads=False)
            start += about.num_rows
    raise RowError("missing_key", f"the file has only {start} rows")


def _row_of(group: Any, number: int) -> dict[str, Any]:
    row: dict[str, Any] = group.slice(number, 1).to_pylist()[0]
    return row


def _fingerprint(stream: RowStream[Any], saved_for: str) -> str:
    """Hash the state of the data files and all settings that decide which rows are good."""
    files = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in stream.files]
    options = asdict(stream.options)
    options["bad"].pop("rejects")
    facts = [_VERSION, files, stream.schema.__name__, options, saved_for]
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()


def _save(path: Path, mark: str, found: tuple[DataReport, _Arrays]) -> None:
    report, arrays = found
    buffer = io.BytesIO()
    about = json.dumps({"mark": mark, "report": asdict(report)}, default=str)
    np.savez_compressed(buffer, about=np.frombuffer(about.encode(), np.uint8), **arrays)  # type: ignore[arg-type]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, buffer.getvalue())


def _load(path: Path, mark: str) -> tuple[DataReport, _Arrays] | None:
    """Load a saved index; None if there is none, or if it belongs to other files or settings."""
    try:
        with np.load(path, allow_pickle=False) as file:
            about = parse_json(file["about"].tobytes())
            if about["mark"] != mark:
                return None
            report = about["report"]
            report |= {"examples": tuple(report["examples"]), "rejects": report["rejects"] and Path(report["rejects"])}
            return DataReport(**report), {name: file[name] for name in ("file_numbers", "offsets", "lengths")}
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None
