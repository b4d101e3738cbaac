"""Write rows as JSON Lines files that are either complete or absent, and media files named by their content hash."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from flexgym.core.errors import ConfigError
from flexgym.core.files import fsync_path, held_file, teaching_disk_errors
from flexgym.data.files import MediaFile
from flexgym.data.schema import Row


class MediaStore:
    """Folder of media files named by a hash of their content, so that identical files are stored once.

    Args:
        folder: the folder; created with the first file.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).absolute()

    def keep(self, file: MediaFile) -> MediaFile:
        """Store an embedded file; a file that has a path is returned unchanged.

        Returns:
            The file with its absolute path.
        """
        if file.data is None:
            return file
        digest = hashlib.sha256(file.data).hexdigest()
        path = self.folder / digest[:2] / f"{digest[:40]}{file.suffix}"
        if not path.is_file() or path.stat().st_size != len(file.data):
            with teaching_disk_errors(f"{path} cannot be written", ConfigError):
                path.parent.mkdir(parents=True, exist_ok=True)
                with held_file(path) as temporary:
                    temporary.write_bytes(file.data)
                    os.replace(temporary, path)
        return MediaFile(path=str(path))


class RowWriter:
    """Write rows as JSON Lines; the file appears only when it is complete.

    Absolute media paths below the folder of the file are written as relative paths, so the folder can be moved.

    Args:
        path: path ending in ``.jsonl``.
        overwrite: replace an existing file.

    Raises:
        ConfigError: if the path has another extension, or the file exists.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        self.path = Path(path).expanduser().absolute()
        if self.path.suffix != ".jsonl":
            raise ConfigError(f"{path}: expected a file ending in .jsonl to write rows to")
        if self.path.exists() and not overwrite:
            raise ConfigError(f"{path}: already exists; remove it, choose another name, or set overwrite")
        self._held = contextlib.ExitStack()
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        with teaching_disk_errors(f"{self.path} cannot be written", ConfigError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._temporary = self._held.enter_context(held_file(self.path))
            self._file = self._temporary.open("w", encoding="utf-8", newline="\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        with self._held, teaching_disk_errors(f"{self.path} cannot be written", ConfigError):
            if error is None:
                self._file.flush()
                os.fsync(self._file.fileno())
            self._file.close()
            if error is None:
                os.replace(self._temporary, self.path)
                fsync_path(self.path.parent)

    def write(self, row: Row) -> None:
        """Append a row.

        Raises:
            ConfigError: if it contains an embedded file.
        """
        assert self._file is not None, "RowWriter.write must be called inside of a with block"
        values = row.with_files(self._relative).as_values()
        with teaching_disk_errors(f"{self.path} cannot be written", ConfigError):
            self._file.write(json.dumps(values, ensure_ascii=False, default=_reject_bytes) + "\n")

    def _relative(self, file: MediaFile) -> MediaFile:
        path = Path(file.path or "")
        if file.data is not None or not path.is_absolute() or not path.is_relative_to(self.path.parent):
            return file
        return MediaFile(path=path.relative_to(self.path.parent).as_posix())


def write_rows(path: str | Path, rows: Iterable[Row], *, overwrite: bool = False) -> Path:
    """Write rows as JSON Lines, see `RowWriter`.

    Returns:
        Absolute path of the file.

    Raises:
        ConfigError: see `RowWriter`.
    """
    with RowWriter(path, overwrite=overwrite) as writer:
        for row in rows:
            writer.write(row)
    return writer.path


def _reject_bytes(value: Any) -> Any:
    raise ConfigError(
        f"JSON Lines cannot contain files, got {type(value).__name__}: write them with MediaStore.keep first"
    )
