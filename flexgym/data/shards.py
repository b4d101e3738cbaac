"""Read WebDataset shards: tar files in which neighboring files with one base name are a row.

``0001.jpg`` with ``0001.txt`` is an image with its caption; ``0001.json`` holds further values of the row, such as
scores; ``0001.0.jpg`` and ``0001.1.jpg`` are several samples of one caption. Other files are skipped unread.
"""

from __future__ import annotations

import io
import itertools
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from flexgym.core.json_text import parse_json
from flexgym.data.files import MAX_FILE_BYTES
from flexgym.data.problems import DataError, Place, RowError
from flexgym.data.raw_row import RawRow
from flexgym.judge.inputs import IMAGE_SUFFIXES, VIDEO_SUFFIXES

MAX_ROW_BYTES = MAX_FILE_BYTES
"""Maximum size of all files of a row, in bytes."""

MAX_TEXT_BYTES = 2**20
"""Maximum size of a caption or a JSON file, in bytes."""

_MEDIA = IMAGE_SUFFIXES | VIDEO_SUFFIXES
_CAPTIONS = (".txt", ".caption")


def read_shard(path: Path) -> Iterator[RawRow]:
    """Read the rows of a tar file in order; a row is in memory at a time.

    Raises:
        DataError: if it is compressed, damaged, or no tar file.
    """
    yield from _rows(path, 0)


def shard_row(path: Path, offset: int) -> RawRow:
    """Read the row that begins at a byte offset of a tar file.

    Raises:
        DataError: as for `read_shard`, or if no row begins there.
    """
    row = next(_rows(path, offset), None)
    if row is None:
        raise DataError(f"{path}: expected a row at byte {offset}, got the end of the file")
    return row


class _BoundedFile(io.FileIO):
    """A file that reads a bounded number of bytes at once, so that a header cannot claim gigabytes."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= MAX_FILE_BYTES:
            raise tarfile.ReadError(f"expected at most {MAX_FILE_BYTES} bytes in one piece, got {size}")
        return super().read(size)


def _rows(path: Path, offset: int) -> Iterator[RawRow]:
    number = 0
    with _BoundedFile(path, "rb") as file:
        file.seek(offset)
        try:
            # r: rejects compressed files, in which a row cannot be found again
            with tarfile.open(fileobj=file, mode="r:") as shard:
                for _, members in itertools.groupby(_members(shard), key=lambda member: _split(member.name)[0]):
                    number += 1
                    yield _row(shard, list(members), Place(path, number, "row"))
        except (tarfile.TarError, OSError, ValueError, EOFError) as error:
            raise DataError(
                f"{path}: cannot be read as a tar file after row {number}: {error}; expected an uncompressed .tar"
            ) from None


def _members(shard: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield the regular files; links and devices are nothing that a row may hold."""
    for member in shard:
        shard.members = []  # type: ignore[attr-defined]  # which otherwise grows with the file
        if member.isreg() and not member.issparse():
            yield member


def _split(name: str) -> tuple[str, str]:
    """Split a name at the first dot of its last part, as WebDataset does."""
    path = PurePosixPath(name)
    base, _, ending = path.name.partition(".")
    return str(path.with_name(base) if base else path), f".{ending.lower()}"


def _row(shard: tarfile.TarFile, members: list[tarfile.TarInfo], place: Place) -> RawRow:
    offset, key = members[0].offset, _split(members[0].name)[0]
    try:
        _check_sizes(members)
        values = _values(shard, members)
    except RowError as problem:
        return RawRow(place, offset, problem=problem, line=key.encode("utf-8", "replace"))
    return RawRow(place, offset, {"id": key[-500:], **values})


def _check_sizes(members: list[tarfile.TarInfo]) -> None:
    total = sum(member.size for member in members)
    if total > MAX_ROW_BYTES:
        raise RowError("too_large", f"expected at most {MAX_ROW_BYTES} bytes in the files of a row, got {total}")
    for member in members:
        if _ending(member) in (*_CAPTIONS, ".json") and member.size > MAX_TEXT_BYTES:
            raise RowError("too_long", f"{member.name}: expected at most {MAX_TEXT_BYTES} bytes, got {member.size}")


def _ending(member: tarfile.TarInfo) -> str:
    return PurePosixPath(_split(member.name)[1]).suffix or _split(member.name)[1]


def _values(shard: tarfile.TarFile, members: list[tarfile.TarInfo]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    samples = {}
    for member in members:
        ending = _ending(member)
        if ending in _MEDIA:
            samples[_split(member.name)[1]] = {"bytes": _content(shard, member), "path": member.name[-4096:]}
        elif ending in _CAPTIONS:
            values["prompt"] = _text(member, _content(shard, member))
        elif ending == ".json":
            values = {**_object(member, _content(shard, member)), **values}
    return {**values, "samples": [samples[ending] for ending in sorted(samples)]}


def _content(shard: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = shard.extractfile(member)
    data = file.read() if file is not None else b""
    if len(data) != member.size:
        raise tarfile.ReadError(f"{member.name}: expected {member.size} bytes, got {len(data)}: the file is cut short")
    return data


def _text(member: tarfile.TarInfo, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise RowError("not_json", f"{member.name}: expected UTF-8, got other bytes at {error.start}") from None


def _object(member: tarfile.TarInfo, data: bytes) -> dict[str, Any]:
    try:
        found = parse_json(data, nan=True)
    except ValueError as error:
        raise RowError("not_json", f"{member.name}: {error}") from None
    if not isinstance(found, dict):
        raise RowError("wrong_type", f"{member.name}: expected a JSON object, got {type(found).__name__}")
    return found
