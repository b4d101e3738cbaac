"""Checkpoints that are whole or absent: written beside, forced to the disk, then renamed into place.

``checkpoints/iteration_000010/`` holds what the caller wrote and a manifest of its files, written last.
``checkpoints/latest`` names the newest one for people and scripts; the code itself looks for the newest *whole* folder,
so a kill between the rename and the pointer loses nothing.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from flexgym.core.errors import CheckpointError, ConfigError
from flexgym.core.files import fsync_path, fsync_tree, temporary_sibling, write_atomic
from flexgym.core.json_text import read_json_file

MANIFEST = "manifest.json"
POINTER = "latest"
SUPERSEDED = "superseded"
_NAME = re.compile(r"^iteration_(\d{6,})$")
_TEMPORARY = re.compile(r"^\.tmp-iteration_\d{6,}-")
_DISPLACED = re.compile(r"^\.old-(iteration_\d{6,})$")


class CheckpointStore:
    """The ``checkpoints`` folder of one run, which one process writes."""

    def __init__(self, folder: str | Path, *, keep: int | None = 3) -> None:
        """Open the folder and clear away what a killed run left unfinished.

        Args:
            folder: made when missing.
            keep: number of newest checkpoints to keep; None keeps all.

        Raises:
            ConfigError: ``keep`` is below 1.
        """
        if keep is not None and keep < 1:
            raise ConfigError(f"keep: expected at least 1 checkpoint (or None for all), got {keep}.")
        self.folder = Path(folder)
        self.keep = keep
        self.folder.mkdir(parents=True, exist_ok=True)
        self._recover()

    def publish(self, iteration: int, write: Callable[[Path], None]) -> Path:
        """Write a checkpoint; until it is whole the one before stays the latest.

        Args:
            iteration: number of finished iterations, 0 or more.
            write: fills the empty folder that it is given; what it raises passes through and leaves no trace.

        Returns:
            ``checkpoints/iteration_000010``. A complete checkpoint of the same iteration is replaced.

        Raises:
            ConfigError: a negative iteration.
            CheckpointError: ``write`` wrote no file.
        """
        if iteration < 0:
            raise ConfigError(f"iteration: expected 0 or more, got {iteration}.")
        final = self.folder / checkpoint_name(iteration)
        temporary = temporary_sibling(final)
        temporary.mkdir()
        try:
            write(temporary)
            _write_manifest(temporary, iteration)
            fsync_tree(temporary)
            self._swap_in(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._point_to(final)
        self._prune()
        return final

    def latest(self) -> Path | None:
        """Return the newest complete checkpoint, or None."""
        return latest_checkpoint(self.folder)

    def rewind(self, iteration: int) -> None:
        """Set aside the checkpoints after ``iteration``, for a run that resumes there and overwrites what followed.

        They move to ``checkpoints/superseded/`` and are never deleted here.

        Args:
            iteration: that of the checkpoint resumed from.
        """
        attic = self.folder / SUPERSEDED
        for number, path in _numbered(self.folder):
            if number <= iteration:
                continue
            attic.mkdir(exist_ok=True)
            target = attic / path.name
            attempt = 2
            while target.exists():
                target = attic / f"{path.name}-{attempt}"
                attempt += 1
            path.rename(target)
        newest = self.latest()
        if newest is not None:
            self._point_to(newest)

    def _swap_in(self, temporary: Path, final: Path) -> None:
        displaced = self.folder / f".old-{final.name}"
        if final.exists():
            final.rename(displaced)
        temporary.rename(final)
        fsync_path(self.folder)
        shutil.rmtree(displaced, ignore_errors=True)

    def _point_to(self, path: Path) -> None:
        write_atomic(self.folder / POINTER, f"{path.name}\n".encode())

    def _prune(self) -> None:
        if self.keep is None:
            return
        whole = [path for _, path in _numbered(self.folder) if not _fault(path)]
        for path in whole[: -self.keep]:
            doomed = temporary_sibling(path)
            path.rename(doomed)  # out of sight first: a kill while deleting leaves no half folder under a good name
            shutil.rmtree(doomed, ignore_errors=True)

    def _recover(self) -> None:
        for path in list(self.folder.iterdir()):
            displaced = _DISPLACED.match(path.name)
            if displaced and not (self.folder / displaced[1]).exists():
                path.rename(self.folder / displaced[1])
            elif displaced or _TEMPORARY.match(path.name):
                shutil.rmtree(path, ignore_errors=True)


def checkpoint_name(iteration: int) -> str:
    """Return the name of a checkpoint's folder, such as ``iteration_000010``."""
    return f"iteration_{iteration:06d}"


def latest_checkpoint(folder: str | Path) -> Path | None:
    """Return the newest complete checkpoint of a run; half-written ones are skipped.

    Args:
        folder: ``runs/<name>`` or its ``checkpoints`` folder; it may be in use by a running job.

    Returns:
        The checkpoint's folder, or None when there is none.
    """
    folder = Path(folder)
    nested = folder / "checkpoints"
    for _, path in reversed(_numbered(nested if nested.is_dir() else folder)):
        if not _fault(path):
            return path
    return None


def verify_checkpoint(path: str | Path) -> int:
    """Check that a checkpoint is complete.

    Args:
        path: a folder named ``iteration_000010``.

    Returns:
        Its iteration.

    Raises:
        CheckpointError: missing, not a checkpoint, or half written; the message names the first missing file.
    """
    path = Path(path)
    match = _NAME.match(path.name)
    if match is None:
        raise CheckpointError(f"{path}: expected a folder named like 'iteration_000010'.")
    fault = _fault(path)
    if fault:
        raise CheckpointError(f"{path}: {fault}. Resume from the run's folder to take its newest complete checkpoint.")
    return int(match[1])


def resolve_checkpoint(path: str | Path) -> Path:
    """Return the checkpoint that a path from the command line names.

    Args:
        path: ``runs/<name>``, its ``checkpoints`` folder, or one checkpoint.

    Returns:
        Folder of a complete checkpoint.

    Raises:
        CheckpointError: there is none; the message says what there is instead.
    """
    path = Path(path)
    if _NAME.match(path.name):
        verify_checkpoint(path)
        return path
    if not path.is_dir():
        others = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
        beside = f" In {path.parent}: {', '.join(others[:20])}." if others else ""
        raise CheckpointError(f"{path}: no such run folder.{beside}")
    found = latest_checkpoint(path)
    if found is None:
        raise CheckpointError(f"{path}: holds no complete checkpoint, so there is nothing to resume. Start a new run.")
    return found


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    matches = ((_NAME.match(path.name), path) for path in folder.iterdir() if path.is_dir())
    return sorted((int(match[1]), path) for match, path in matches if match)


def _write_manifest(folder: Path, iteration: int) -> None:
    sizes = {
        path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()
    }
    if not sizes:
        raise CheckpointError(f"checkpoint of iteration {iteration}: nothing was written into {folder}.")
    write_atomic(folder / MANIFEST, json.dumps({"iteration": iteration, "files": sizes}, indent=1).encode())


def _fault(path: Path) -> str:
    """Return what is wrong with a checkpoint folder; empty when it is complete."""
    if not path.is_dir():
        return "no such checkpoint"
    try:
        manifest = read_json_file(path / MANIFEST)
        sizes = dict(manifest["files"])
    except FileNotFoundError:
        return f"half written: {MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError):
        return f"half written: {MANIFEST} cannot be read"
    for name, size in sizes.items():
        file = path / name
        if not file.is_file():
            return f"half written: {name} is missing"
        if file.stat().st_size != size:
            return f"half written: {name} has {file.stat().st_size} bytes, expected {size}"
    return ""
