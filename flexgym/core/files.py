"""Atomic writes: after a crash or a power cut, a file is either complete or absent."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def temporary_sibling(path: Path) -> Path:
    """Return an unused hidden path next to ``path``, on the same file system, so that renaming it is atomic."""
    return path.parent / f".tmp-{path.name}-{uuid.uuid4().hex[:12]}"


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the content of a file so that a reader sees the old bytes or the new ones, never a part.

    Args:
        path: file to write, in an existing folder.
        data: complete content of the file.

    Raises:
        OSError: writing failed; ``path`` is then unchanged.
    """
    temporary = temporary_sibling(path)
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_path(path.parent)


def fsync_path(path: Path) -> None:
    """Flush one file, or the list of names of one folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """Flush ``folder`` and every file and folder below it to the disk, children first."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            fsync_path(Path(parent, name))
        fsync_path(Path(parent))
