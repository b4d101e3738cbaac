"""Rows by number, for training: where each begins is in memory, the rows are not."""

from __future__ import annotations

import hashlib
import io
import json
import operator
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Generic, Self

import numpy as np
from numpy.typing import NDArray

from flexgym.core.files import write_atomic
from flexgym.rm.data.problems import DataError, DataReport, Place, RowError
from flexgym.rm.data.raw import MAX_LINE, RawRow, data_files, open_parquet, parse_line, wanted_columns
from flexgym.rm.data.reading import AnyRow, ReadOptions, RowStream, build_row, media_folder, raw_values

MAX_GROUP_BYTES = 2**30
"""Of a row group of Parquet, unpacked: reading one row takes reading its group."""

_GROUPS_KEPT = 2
_VERSION = 1


class IndexedRows(Generic[AnyRow]):
    """The good rows of data files, by number.

    Use `IndexedRows.open`. It can be pickled and sent to other processes that see the same files; rows are read from
    the files when they are asked for, by any number of processes at once. Parquet is read by row group, and the last
    two are kept, so files with large groups of embedded images are slow in random order: `write_rows` makes JSON Lines
    of them, with image files that `MediaStore` keeps.

    Attributes:
        files: the data files.
        schema: which kind of rows.
        options: how they are read.
        lengths: int64 ``[N]``, what ``measure`` said of each row; zeros without it.
        report: what was found when the files were read through.
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
        """Read the files through once: check every row and note where it begins.

        Args:
            paths: JSON Lines or Parquet.
            schema: `PreferencePair`, `SFTRow` or `DPORow`.
            options: how rows are read and what becomes of bad ones.
            measure: the length of a row in any unit; may raise a `RowError` to refuse it.
            saved: a file that takes the index. Where it holds one of the same files (by size and time of change) and
                settings, that one is taken and nothing is read.
            saved_for: what the index depends on beside them, such as a name of ``measure`` and its settings.

        Raises:
            DataError: a file is missing or broken as a whole, too many rows are bad, or none is good.
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
        """A row, its media with absolute paths.

        Args:
            index: 0 to N - 1, or from -N to count from the end.

        Raises:
            IndexError: there is no such row.
            DataError: the files have changed since they were read through.
        """
        number = range(len(self))[operator.index(index)]
        path = self.files[self._file_numbers[number]]
        offset = int(self._offsets[number])
        try:
            raw = self._raw(path, int(self._file_numbers[number]), offset)
            return build_row(self.schema, raw_values(raw), media_folder(path, self.options), check="none")
        except (RowError, OSError) as error:
            raise DataError(
                f"{path}: row {number} was good when the file was read through, and is not any more: {error}. Start"
                " again with the file as it is"
            ) from None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_groups": OrderedDict()}

    def _raw(self, path: Path, file: int, offset: int) -> RawRow:
        if path.suffix.lower() == ".parquet":
            return RawRow(Place(path, offset + 1, "row"), offset, self._parquet_row(path, file, offset))
        # Opened anew each time: processes that were forked would share a place in the file.
        with path.open("rb") as lines:
            lines.seek(offset)
            return parse_line(lines.readline(MAX_LINE + 1), Place(path, 0), offset)

    def _parquet_row(self, path: Path, file: int, number: int) -> dict[str, Any]:
        for (kept, start), group in self._groups.items():
            if kept == file and start <= number < start + group.num_rows:
                self._groups.move_to_end((kept, start))
                return _row_of(group, number - start)
        start, group = _read_group(path, number, set(self.schema.model_fields))
        self._groups[file, start] = group
        while len(self._groups) > _GROUPS_KEPT:
            self._groups.popitem(last=False)
        return _row_of(group, number - start)


_Arrays = dict[str, NDArray[Any]]


def _read_through(stream: RowStream[Any]) -> tuple[DataReport, _Arrays]:
    columns = {"file_numbers": np.int32, "offsets": np.int64, "lengths": np.int64}
    pages: dict[str, list[NDArray[Any]]] = {name: [] for name in columns}
    page: list[tuple[int, int, int]] = []

    def turn() -> None:
        for (name, kind), values in zip(columns.items(), zip(*page, strict=True), strict=True):
            pages[name].append(np.array(values, kind))
        page.clear()

    for placed in stream.placed():
        page.append((placed.file, placed.offset, placed.length))
        if len(page) == 65_536:  # tuples take ten times the memory of arrays
            turn()
    if page:
        turn()
    return stream.report, {name: np.concatenate(parts) for name, parts in pages.items()}


def _read_group(path: Path, number: int, columns: set[str]) -> tuple[int, Any]:
    """The row group that holds a row, and the number of its first row."""
    with open_parquet(path) as file:
        start = 0
        for group in range(file.metadata.num_row_groups):
            about = file.metadata.row_group(group)
            if number < start + about.num_rows:
                if about.total_byte_size > MAX_GROUP_BYTES:
                    raise DataError(
                        f"{path}: row group {group} takes {about.total_byte_size} bytes, expected at most"
                        f" {MAX_GROUP_BYTES} for reading in any order: write smaller groups, or JSON Lines with files"
                        " for images"
                    )
                return start, file.read_row_group(group, columns=wanted_columns(file, columns), use_threads=False)
            start += about.num_rows
    raise RowError("missing_key", f"there are {start} rows")


def _row_of(group: Any, number: int) -> dict[str, Any]:
    row: dict[str, Any] = group.slice(number, 1).to_pylist()[0]
    return row


def _fingerprint(stream: RowStream[Any], saved_for: str) -> str:
    """Changes where a data file or a setting does that decides which rows are good."""
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
    """The saved index; None where there is none, or one of other files or settings."""
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(file["about"].tobytes())
            if about["mark"] != mark:
                return None
            report = about["report"]
            report |= {"examples": tuple(report["examples"]), "rejects": report["rejects"] and Path(report["rejects"])}
            return DataReport(**report), {name: file[name] for name in ("file_numbers", "offsets", "lengths")}
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None
