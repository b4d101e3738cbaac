"""Lock a folder so that one process at a time writes it."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path
from types import TracebackType

from filelock import lock_descriptor, unlock_descriptor

from flexgym.core.errors import CheckpointError
from flexgym.core.files import open_own

NAME = "lock"
_MAX_NOTE = 200


class FolderLock:
    """Lock on a run folder, held from construction until `release` or until the process ends, however it ends.

    The operating system holds the lock, so a killed process leaves none behind. The file ``lock`` remains in the
    folder and names the last holder; its existence means nothing. Where the platform or the file system has no locks,
    nothing is locked.
    """

    def __init__(self, folder: Path) -> None:
        """Take the lock.

        Args:
            folder: an existing folder, named in the error.

        Raises:
            CheckpointError: the lock is taken; the message names the folder and the holder. Or the file ``lock`` is a
                link.
        """
        # Open for as long as the lock is held; a link called so must not have its target emptied.
        self._file = os.fdopen(open_own(folder / NAME, os.O_RDWR | os.O_APPEND), "a+b")
        if not _take(self._file.fileno()):
            holder = self._holder()
            self._file.close()
            raise CheckpointError(
                f"{folder}: the run is open in {holder}, and only one process can write it. Wait until it is closed"
                " there, or start a new run."
            )
        self._file.truncate(0)
        self._file.write(_note().encode())
        self._file.flush()

    def _holder(self) -> str:
        self._file.seek(0)
        try:
            note = self._file.read(_MAX_NOTE).decode("utf-8", "replace")
        except OSError:  # Windows lets only the holder read a locked file
            note = ""
        if note == _note():
            return "this process"
        return f"another process ({note})" if note and note.isprintable() else "another process"

    def release(self) -> None:
        """Release the lock; further calls do nothing."""
        if not self._file.closed:
            # Closing is not enough: a child that was forked in the meantime shares the file, and with it the lock.
            with contextlib.suppress(OSError):
                unlock_descriptor(self._file.fileno())
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
    """Return False if another holder has the lock; True also where there are no locks."""
    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError:
        return True
