"""Check that the folders of a training can be written to, have room, and behave where they are shared."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from flexgym.core.files import cause_of
from flexgym.core.units import GIB
from flexgym.doctor.clocks import check_skew
from flexgym.doctor.findings import Finding, ok, problem, warning

_LITTLE_GIB, _ENOUGH_GIB = 1, 20
_PROBE_BYTES = 2**20


def check_disk(folder: Path, use: str) -> Finding:
    """Write a file of 1 MiB and look how much room there is.

    Args:
        folder: the folder; where it does not exist yet, the nearest one above it that does.
        use: what is written there, for the message.
    """
    place = _existing(folder)
    try:
        with tempfile.NamedTemporaryFile(dir=place, prefix=".flexgym-doctor-") as file:
            file.write(os.urandom(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return problem("disk", f"{use}: {place} cannot be written to: {cause_of(error)}", _remedy(use))
    free = shutil.disk_usage(place).free / GIB
    what = f"{use}: {place} ({_kind(place)}) has {free:.1f} GiB free"
    if free < _LITTLE_GIB:
        return problem("disk", what, _remedy(use))
    if free < _ENOUGH_GIB:
        return warning("disk", what, f"enough for small models only; {_remedy(use)}")
    return ok("disk", what)


def check_shared(folder: Path) -> list[Finding]:
    """Check what several machines need of a folder: that it exists, takes files, renames and locks them, and its clock.

    Args:
        folder: the folder, which is used by other machines too.
    """
    if not folder.is_dir():
        return [problem("shared", f"{folder} does not exist on this machine", "mount it, at the same path everywhere")]
    found = [check_disk(folder, "shared folder")]
    if found[0].level == "problem" and "cannot be written" in found[0].what:
        return found
    return [*found, *_check_locks(folder), *_check_file_clock(folder)]


def _check_locks(folder: Path) -> list[Finding]:
    path = folder / f".flexgym-doctor-{os.getpid()}.lock"
    first, second = FileLock(path, is_singleton=False), FileLock(path, is_singleton=False)
    try:
        with first, contextlib.suppress(Timeout), second.acquire(timeout=0):
            advice = "mount it with locks (NFS 4, or Lustre with -o flock): two processes could open the same run"
            return [problem("shared", f"{folder}: locks do not lock", advice)]
    except (OSError, NotImplementedError) as error:
        advice = "mount it with locks (NFS 4, or Lustre with -o flock), or put run.root on another disk"
        return [problem("shared", f"{folder}: files cannot be locked: {error}", advice)]
    finally:
        path.unlink(missing_ok=True)
    return []


def _check_file_clock(folder: Path) -> list[Finding]:
    """Compare the time of a new file, which the file server sets, with the clock of this machine."""
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".flexgym-doctor-") as file:
        skew = os.fstat(file.fileno()).st_mtime - time.time()
    return check_skew(f"{folder}: its server's clock", skew)


def _existing(folder: Path) -> Path:
    path = folder.expanduser().absolute()
    return next(each for each in (path, *path.parents) if each.exists())


def _kind(place: Path) -> str:
    """Return the type of the file system, such as ``ext4`` or ``nfs4``."""
    mounts = [part for part in psutil.disk_partitions(all=True) if place.is_relative_to(part.mountpoint)]
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype if mounts else "unknown"


def _remedy(use: str) -> str:
    settings = {"runs": "set run.root to another disk", "temporary files": "set TMPDIR, and `ray start --temp-dir`"}
    settings["models"] = "set HF_HOME to another disk"
    return f"free space or {settings[use]}" if use in settings else "free space, and check its permissions"
