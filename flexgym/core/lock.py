"""One process at a time writes a run folder."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from types import TracebackType

from flexgym.core.errors import CheckpointError

NAME = "lock"
_MAX_NOTE = 200


class FolderLock:
    """A lock on a folder, held from when it is made until `release` or until the process ends, however it ends.

    It is the kernel that holds it (flock), so a killed process leaves no lock behind. The file ``lock`` stays in the
    folder; that it exists means nothing, and it says who held the lock last. Where the platform or the file system has
    no such locks, nothing is locked.
    """

    def __init__(self, folder: Path) -> None:
        """Take the lock.

        Args:
            folder: exists; its path stands in the error.

        Raises:
            CheckpointError: it is taken; the message names the folder and who has it.
        """
        self._file = open(folder / NAME, "a+b")  # noqa: SIM115 (open for as long as the lock is held)
        if not _take(self._file.fileno()):
            holder = self._holder()
            self._file.close()
            raise CheckpointError(
                f"{folder}: the run is open in {holder}, and only one can write it. Wait until it is closed there, or "
                f"start a new run."
            )
        self._file.truncate(0)
        self._file.write(_note().encode())
        self._file.flush()

    def _holder(self) -> str:
        self._file.seek(0)
        note = self._file.read(_MAX_NOTE).decode("utf-8", "replace")
        if note == _note():
            return "this process"
        return f"another process ({note})" if note and note.isprintable() else "another process"

    def release(self) -> None:
        """Give the lock back; further calls do nothing."""
        if not self._file.closed:
            _give_back(self._file.fileno())
            self._file.close()

    def __enter__(self) -> FolderLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _note() -> str:
    return f"{os.getpid()} on {socket.gethostname()}"


def _take(descriptor: int) -> bool:
    """Whether the lock is ours now; True as well where there are no locks."""
    try:
        import fcntl
    except ImportError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _give_back(descriptor: int) -> None:
    """Unlock, since a child that was forked meanwhile shares the file, and would hold the lock beyond its closing."""
    try:
        import fcntl
    except ImportError:
        return
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
