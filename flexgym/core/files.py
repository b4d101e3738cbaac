"""Writes that are either whole on the disk or not there at all, also after a power cut."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def temporary_sibling(path: Path) -> Path:
    """A hidden, unused name beside ``path``, on the same file system, so that a rename onto it is atomic."""
    return path.parent / f".tmp-{path.name}-{uuid.uuid4().hex[:12]}"


def write_atomic(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` so that a reader sees the old bytes or the new ones, never a part.

    Args:
        path: the file to write; its folder exists.
        data: everything the file shall hold.

    Raises:
        OSError: the disk refused; ``path`` is then as it was.
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
    """Force one file or one folder's list of names to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_tree(folder: Path) -> None:
    """Force every file and every folder under ``folder``, itself included, to the disk (children first)."""
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            fsync_path(Path(parent, name))
        fsync_path(Path(parent))
