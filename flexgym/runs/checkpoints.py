"""Checkpoints that are complete or absent: written beside, forced to the disk, then renamed into place.

``checkpoints/iteration_000010/`` holds what the caller wrote and a manifest of its files, written last.
``checkpoints/latest`` names the newest one for people and scripts; the code itself looks for the newest *complete*
folder, so a kill between the rename and the pointer loses nothing. A damaged one moves to ``checkpoints/damaged/`` when
a run is resumed, and the next older one is used.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from flexgym.core.errors import CheckpointError, ConfigError
from flexgym.core.files import (
    fsync_path,
    fsync_tree,
    remove_unless_held,
    teaching_disk_errors,
    temporary_sibling,
    write_atomic,
)
from flexgym.core.text import PlainLogger
from flexgym.runs.manifest import MANIFEST, OldCheckpointError, read_manifest, write_manifest

CHECKPOINTS = "checkpoints"
"""Folder of a run that holds its checkpoints."""
POINTER = "latest"
SUPERSEDED = "superseded"
DAMAGED = "damaged"
_log = PlainLogger(__name__)
_NAME = re.compile(r"^iteration_(\d{6,})$")
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

    def publish(self, iteration: int, write: Callable[[Path], None], *, required: Sequence[str] = ()) -> Path:
        """Write a checkpoint; until it is complete the one before stays the latest.

        Args:
            iteration: number of finished iterations, 0 or more.
            write: fills the empty folder that it is given; what it raises passes through and leaves no trace.
            required: relative names of the files and folders that ``write`` must have written.

        Returns:
            ``checkpoints/iteration_000010``. A complete checkpoint of the same iteration is replaced.

        Raises:
            ConfigError: a negative iteration.
            CheckpointError: ``write`` wrote no file, or not all parts; or the disk is full or cannot be written to.
        """
        if iteration < 0:
            raise ConfigError(f"iteration: expected 0 or more, got {iteration}.")
        final = self.folder / checkpoint_name(iteration)
        temporary = temporary_sibling(final)
        with teaching_disk_errors(f"{final} cannot be written (earlier checkpoints are untouched)"):
            temporary.mkdir()
            try:
                write(temporary)
                write_manifest(temporary, iteration, required)
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
        for number, path in _numbered(self.folder):
            if number > iteration:
                _set_aside(path, SUPERSEDED)
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
            elif displaced or path.name.startswith(".tmp-"):
                remove_unless_held(path)


def checkpoint_name(iteration: int) -> str:
    """Return the name of a checkpoint's folder, such as ``iteration_000010``."""
    return f"iteration_{iteration:06d}"


def is_checkpoint_name(name: str) -> bool:
    """Return True for the name of a checkpoint's folder, such as ``iteration_000010``."""
    return _NAME.match(name) is not None


def iteration_of(path: Path) -> int:
    """Return the number of finished iterations that the name of a checkpoint's folder says."""
    return int(path.name.removeprefix("iteration_"))


def _set_aside(path: Path, attic: str) -> Path:
    """Move a checkpoint to a folder beside it, under a name that is free there."""
    (path.parent / attic).mkdir(exist_ok=True)
    target, attempt = path.parent / attic / path.name, 2
    while target.exists() or target.is_symlink():
        target = path.parent / attic / f"{path.name}-{attempt}"
        attempt += 1
    path.rename(target)
    return target


def latest_checkpoint(folder: str | Path) -> Path | None:
    """Return the newest complete checkpoint of a run by the sizes of its files; half-written ones are skipped.

    Args:
        folder: ``runs/<name>`` or its ``checkpoints`` folder; it may be in use by a running job.

    Returns:
        The checkpoint's folder, or None when there is none.
    """
    for _, path in reversed(_numbered(_checkpoints_of(Path(folder)))):
        if not _fault(path):
            return path
    return None


def verify_checkpoint(path: str | Path) -> int:
    """Check that a checkpoint is complete and undamaged: its parts, and size and checksum of every file.

    Args:
        path: a folder named ``iteration_000010``.

    Returns:
        Its iteration.

    Raises:
        CheckpointError: missing, not a checkpoint, half written or damaged; the message names the first such file.
    """
    path = Path(path)
    match = _NAME.match(path.name)
    if match is None:
        raise CheckpointError(f"{path}: expected a folder named like 'iteration_000010'.")
    fault = _fault(path, content=True)
    if fault:
        raise CheckpointError(f"{path}: {fault}. Resume from the run's folder to take its newest complete checkpoint.")
    return int(match[1])


def run_of(path: str | Path) -> Path:
    """Return the run folder that a path from the command line belongs to, absolute; no file in it is opened.

    Args:
        path: ``runs/<name>``, its ``checkpoints`` folder, or one checkpoint.

    Raises:
        CheckpointError: there is no such folder, or there is no checkpoint in it.
    """
    path = Path(path)
    if _NAME.match(path.name):
        if not path.is_dir() or path.is_symlink():
            raise CheckpointError(f"{path}: no such checkpoint{' (a link)' if path.is_symlink() else ''}.")
        return path.parent.resolve().parent
    if not path.is_dir():
        others = sorted(entry.name for entry in path.parent.iterdir()) if path.parent.is_dir() else []
        beside = f" In {path.parent}: {', '.join(others[:20])}." if others else ""
        raise CheckpointError(f"{path}: no such run folder.{beside}")
    checkpoints = _checkpoints_of(path)
    if checkpoints != path and checkpoints.is_symlink():
        raise CheckpointError(f"{checkpoints} is a link, and links are not followed here: replace it")
    if not _numbered(checkpoints):
        raise _none_left(path)
    return checkpoints.resolve().parent


def resolve_checkpoint(path: str | Path, *, set_aside: bool = False) -> Path:
    """Return the checkpoint that a path from the command line names, verified by `verify_checkpoint`.

    Args:
        path: ``runs/<name>``, its ``checkpoints`` folder, or one checkpoint.
        set_aside: move damaged checkpoints that are newer to ``checkpoints/damaged``, for the process that has the run
            open; otherwise they are only passed over. A warning says so in both cases.

    Returns:
        Folder of a complete checkpoint.

    Raises:
        CheckpointError: there is none; the message says what there is instead.
    """
    path = Path(path)
    run_of(path)
    if _NAME.match(path.name):
        verify_checkpoint(path)
        return path.parent.resolve() / path.name
    old = ""
    for _, found in reversed(_numbered(_checkpoints_of(path).resolve())):
        fault = _fault(found, content=True)
        if not fault:
            return found
        if _is_old(found):
            old = old or f"{found}: {fault}."
            continue
        moved = f", so it was moved to {_set_aside(found, DAMAGED)}" if set_aside else ""
        _log.warning("%s: %s%s; the next older checkpoint is used", found, fault, moved)
    raise CheckpointError(old) if old else _none_left(path)


def _none_left(path: Path) -> CheckpointError:
    return CheckpointError(f"{path}: holds no complete checkpoint, so there is nothing to resume. Start a new run.")


def _checkpoints_of(folder: Path) -> Path:
    nested = folder / "checkpoints"
    return nested if nested.is_dir() else folder


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    matches = ((_NAME.match(path.name), path) for path in folder.iterdir() if path.is_dir() or path.is_symlink())
    return sorted((int(match[1]), path) for match, path in matches if match)


def _fault(path: Path, *, content: bool = False) -> str:
    """Return what is wrong with a checkpoint folder; empty when it is complete."""
    if path.is_symlink():
        return "damaged: it is a link"
    if not path.is_dir():
        return "no such checkpoint"
    try:
        manifest = read_manifest(path)
        if checkpoint_name(manifest.iteration) != path.name:
            return f"damaged: {MANIFEST} is that of iteration {manifest.iteration}"
        (manifest.check_content if content else manifest.check_sizes)(path)
    except CheckpointError as error:
        return str(error)
    return ""


def _is_old(path: Path) -> bool:
    try:
        read_manifest(path)
    except OldCheckpointError:
        return True
    except CheckpointError:
        return False
    return False
