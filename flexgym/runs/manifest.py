"""The manifest of a checkpoint: which parts must be there, and size and checksum of every file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexgym.core.errors import CheckpointError
from flexgym.core.files import check_relative, digest, open_inside, regular_files, write_atomic
from flexgym.core.json_text import parse_json

MANIFEST = "manifest.json"
_VERSION = 2
_MAX_BYTES = 64 * 2**20
_THREADS = 4  # a checksum computes without Python's lock


class OldCheckpointError(CheckpointError):
    """A checkpoint of an earlier version, which held pickled state and no checksums."""


@dataclass(frozen=True)
class Entry:
    """A file of a checkpoint.

    Attributes:
        size: in bytes.
        digest: its checksum, see `flexgym.core.files.digest`.
    """

    size: int
    digest: str


@dataclass(frozen=True)
class Manifest:
    """Content of the file `MANIFEST`, which is written last and so makes a checkpoint complete.

    Attributes:
        iteration: number of finished iterations.
        required: relative names of files and folders that the trainer cannot resume without.
        files: all files by relative name, without the manifest.
    """

    iteration: int
    required: tuple[str, ...]
    files: Mapping[str, Entry]

    def lacks(self, parts: Sequence[str]) -> list[str]:
        """Return the parts, files or folders, that are not among the files."""
        return [
            part for part in parts if part not in self.files and not any(n.startswith(f"{part}/") for n in self.files)
        ]

    def check_sizes(self, folder: Path) -> None:
        """Check that every file is there as a regular file of its size; no content is read.

        Raises:
            CheckpointError: naming the first file that is not.
        """
        for name, entry in self.files.items():
            self._check_file(folder, name, entry, content=False)

    def check_content(self, folder: Path) -> None:
        """Check size and checksum of every file.

        Raises:
            CheckpointError: naming the first file that is damaged.
        """
        with ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(lambda item: self._check_file(folder, *item, content=True), self.files.items()):
                pass

    @staticmethod
    def _check_file(folder: Path, name: str, entry: Entry, *, content: bool) -> None:
        try:
            with open_inside(folder, name) as file:
                size = file.seek(0, 2)
                if size != entry.size:
                    raise CheckpointError(f"half written: {name} has {size} bytes, expected {entry.size}")
                file.seek(0)
                if content and digest(file) != entry.digest:
                    raise CheckpointError(f"damaged: {name} has changed since it was written (its checksum differs)")
        except FileNotFoundError as error:
            raise CheckpointError(f"half written: {name} is missing") from error
        except CheckpointError:
            raise
        except OSError as error:
            raise CheckpointError(f"damaged: {name} cannot be read ({error.strerror})") from error


def write_manifest(folder: Path, iteration: int, required: Sequence[str]) -> Manifest:
    """Write the manifest of all files in a folder.

    Args:
        folder: the checkpoint.
        iteration: number of finished iterations.
        required: parts that must be among the files.

    Raises:
        CheckpointError: there is no file, a part is missing, or a file is a link.
    """
    sizes = regular_files(folder)
    if not sizes:
        raise CheckpointError(f"checkpoint of iteration {iteration}: nothing was written into {folder}.")
    with ThreadPoolExecutor(_THREADS) as pool:
        digests = pool.map(lambda name: _digest_of(folder, name), sizes)
        files = {name: Entry(size, found) for (name, size), found in zip(sizes.items(), digests, strict=True)}
    manifest = Manifest(iteration, tuple(required), files)
    if lacking := manifest.lacks(required):
        raise CheckpointError(
            f"checkpoint of iteration {iteration}: {', '.join(lacking)} was not written, so it could not be resumed"
        )
    body = _body(manifest)
    write_atomic(folder / MANIFEST, json.dumps({**body, "digest": _digest_body(body)}, indent=1).encode())
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a checkpoint.

    Raises:
        OldCheckpointError: an earlier version of FlexGym wrote it.
        CheckpointError: it is missing, damaged, or lacks a required part.
    """
    unreadable = CheckpointError(f"half written: {MANIFEST} cannot be read")
    try:
        with open_inside(folder, MANIFEST) as file:
            values = parse_json(file.read(_MAX_BYTES))
        if isinstance(values, dict) and "version" not in values and isinstance(values.get("files"), dict):
            raise OldCheckpointError(
                "written by an earlier version of FlexGym, with pickled state. A pickle can run code when it is read,"
                " so it is not opened: start a new run; generator/ or judge/ in it can still be loaded"
            )
        found = values.pop("digest")
        manifest = _parsed(values)
    except FileNotFoundError as error:
        raise CheckpointError(f"half written: {MANIFEST} is missing") from error
    except CheckpointError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise unreadable from error
    if values != _body(manifest) or found != _digest_body(values):
        raise CheckpointError(f"damaged: {MANIFEST} has changed since it was written (its checksum differs)")
    if lacking := manifest.lacks(manifest.required):
        raise CheckpointError(f"incomplete: it lacks {', '.join(lacking)}")
    return manifest


def _parsed(values: dict[str, Any]) -> Manifest:
    files = {str(check_relative(name)): Entry(int(size), str(found)) for name, (size, found) in values["files"].items()}
    return Manifest(int(values["iteration"]), tuple(map(str, values["required"])), files)


def _body(manifest: Manifest) -> dict[str, Any]:
    files = {name: [entry.size, entry.digest] for name, entry in manifest.files.items()}
    required = list(manifest.required)
    return {"version": _VERSION, "iteration": manifest.iteration, "required": required, "files": files}


def _digest_body(body: Mapping[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=20).hexdigest()


def _digest_of(folder: Path, name: str) -> str:
    with open_inside(folder, name) as file:
        return digest(file)
