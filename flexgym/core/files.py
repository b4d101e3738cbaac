"""Files that are complete or absent after a crash or a power cut, and that are never reached through links.

A run folder or a checkpoint may come from somebody else. Whatever is written in one, or copied out of one, is therefore
a regular file of its own: a link in it could lead to any file of this machine.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO

from filelock import lock_descriptor, unlock_descriptor
from safetensors import SafetensorError

from flexgym.core.errors import CheckpointError, FlexGymError

_BLOCK = 2**20
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_CAUSES = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota of the disk is used up",
    errno.EFBIG: "the file is larger than the limit of this process or disk",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.ENOENT: "it does not exist (any more)",
    errno.ENOTDIR: "a part of the path is a file",
    errno.EISDIR: "it is a folder",
    errno.ENAMETOOLONG: "the name is too long",
    errno.EIO: "the disk reports an error",
    errno.ESTALE: "the network disk has lost it",
}


# --- errors of the operating system ----------------------------------------------------------------------------------


def cause_of(error: OSError | SafetensorError) -> str:
    """Say in words why a file could not be read or written, with its path where it is known."""
    error = getattr(error, "cause", error)  # of an error in a process of Ray
    number, file = getattr(error, "errno", None), getattr(error, "filename", None)
    if number is None and (found := re.search(r"os error (\d+)", str(error))):  # of safetensors
        number = int(found[1])
    words = _CAUSES.get(number or 0) or getattr(error, "strerror", None) or str(error)
    return f"{file}: {words}" if file else words


def is_disk_error(error: OSError | SafetensorError) -> bool:
    """Return True if a disk or its permissions are to blame, and not a connection or a process."""
    found = getattr(error, "cause", error)
    return getattr(found, "errno", None) in _CAUSES or "os error" in str(found)


@contextlib.contextmanager
def teaching_disk_errors(what: str, kind: type[FlexGymError] = CheckpointError) -> Iterator[None]:
    """Turn the errors of the operating system into one sentence.

    Args:
        what: begins the sentence, such as ``"the checkpoint of iteration 3 cannot be written"``.
        kind: of the error to raise.

    Raises:
        FlexGymError: of the given kind, for an `OSError`; an error of FlexGym passes through.
    """
    try:
        yield
    except FlexGymError:
        raise
    except (OSError, SafetensorError) as error:
        raise kind(f"{what}: {cause_of(error)}") from error


# --- writing ---------------------------------------------------------------------------------------------------------


def temporary_sibling(path: Path) -> Path:
    """Return an unused hidden path next to ``path``, on the same file system, so that renaming it is atomic."""
    return path.parent / f".tmp-{path.name}-{uuid.uuid4().hex[:12]}"


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the content of a file so that a reader sees the old bytes or the new ones, never a part.

    A link of that name is replaced, and what it leads to stays as it is.

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


def open_own(path: Path, flags: int) -> int:
    """Open or create a file for writing in place, unless its name leads to another file.

    Args:
        path: the file.
        flags: as for `os.open`, such as ``os.O_WRONLY | os.O_APPEND``; ``os.O_CREAT`` is added.

    Returns:
        The descriptor.

    Raises:
        CheckpointError: a symbolic link, a file with a second name, or no regular file.
        OSError: it cannot be opened.
    """
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | _NO_FOLLOW, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise CheckpointError(f"{path} is a link, and nothing is written through links: remove it") from error
        raise
    about = os.fstat(descriptor)
    if stat.S_ISREG(about.st_mode) and about.st_nlink == 1:
        return descriptor
    os.close(descriptor)
    raise CheckpointError(f"{path} is another file by a second name (a hard link), or no regular file: remove it")


def open_writing(path: Path, *, append: bool = False) -> IO[bytes]:
    """Open a file for writing in place, anew or at its end, unless its name leads to another file; see `open_own`."""
    descriptor = open_own(path, os.O_WRONLY | (os.O_APPEND if append else 0))
    if not append:
        os.ftruncate(descriptor, 0)
    return os.fdopen(descriptor, "ab" if append else "wb")


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


# --- temporary files and folders that outlive nobody -----------------------------------------------------------------


@contextlib.contextmanager
def held_folder(target: Path) -> Iterator[Path]:
    """Make a hidden folder beside ``target`` to be filled and renamed; afterwards it is gone.

    What killed processes have left beside ``target`` in this way is removed first.

    Args:
        target: path that the folder will be renamed to, in an existing folder.

    Yields:
        The folder, empty.
    """
    remove_leftovers(target)
    path = temporary_sibling(target)
    path.mkdir()
    with _locked(path):
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def held_file(target: Path) -> Iterator[Path]:
    """Make a hidden file beside ``target`` to be filled and renamed, as `held_folder` makes a folder."""
    remove_leftovers(target)
    path = temporary_sibling(target)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    with _locked(path):
        try:
            yield path
        finally:
            path.unlink(missing_ok=True)


def remove_leftovers(target: Path) -> None:
    """Remove the temporary files and folders beside ``target`` whose process has ended."""
    pattern = re.compile(rf"\.tmp-{re.escape(target.name)}-[0-9a-f]{{12}}")
    for path in list(target.parent.iterdir()) if target.parent.is_dir() else ():
        if pattern.fullmatch(path.name):
            remove_unless_held(path)


def remove_unless_held(path: Path) -> None:
    """Remove a temporary file or folder unless a running process holds it; a link is removed, not followed."""
    with contextlib.suppress(OSError):
        if path.is_symlink():
            path.unlink()
            return
        with _locked(path) as free:
            if not free:
                return
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Lock a file or folder for as long as this process lives; yields False if another one has it."""
    descriptor = os.open(path, os.O_RDONLY | _NO_FOLLOW)
    try:
        free = False
        with contextlib.suppress(OSError):  # a file system without locks
            free = lock_descriptor(descriptor, blocking=False)
        yield free
    finally:
        with contextlib.suppress(OSError):
            unlock_descriptor(descriptor)
        os.close(descriptor)


# --- reading and copying without links -------------------------------------------------------------------------------


def regular_files(folder: Path, *, without: Sequence[str] = ()) -> dict[str, int]:
    """Return the sizes of all files in a folder by relative name, sorted.

    Args:
        folder: the folder.
        without: names of its subfolders to leave out.

    Raises:
        CheckpointError: a link or something else that is neither a file nor a folder; the message names it.
    """
    sizes: dict[str, int] = {}
    for parent, folders, names in os.walk(folder):
        if Path(parent) == folder:
            folders[:] = [name for name in folders if name not in without]
        for name in (*folders, *names):
            path = Path(parent, name)
            about = path.lstat()
            if stat.S_ISREG(about.st_mode):
                sizes[path.relative_to(folder).as_posix()] = about.st_size
            elif not stat.S_ISDIR(about.st_mode):
                kind = "a link" if stat.S_ISLNK(about.st_mode) else "no regular file"
                raise CheckpointError(f"{path} is {kind}, and links are not followed here: replace it by a file")
    return dict(sorted(sizes.items()))


def check_relative(name: str) -> PurePosixPath:
    """Return a relative name of a file as a path.

    Raises:
        CheckpointError: it could lead out of its folder.
    """
    path = PurePosixPath(name)
    if not name or "\0" in name or path.is_absolute() or ".." in path.parts or name == ".":
        raise CheckpointError(f"expected the relative name of a file, got {name!r}")
    return path


def open_inside(folder: Path, name: str) -> IO[bytes]:
    """Open a file below a folder for reading, following no link on the way.

    Args:
        folder: the folder, which may be named through links itself.
        name: relative name of the file.

    Raises:
        CheckpointError: the name leads out of the folder, or a part of it is a link or no regular file.
        FileNotFoundError: there is no such file.
    """
    *folders, last = check_relative(name).parts
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        for part in folders:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | _NO_FOLLOW, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        opened = os.open(last, os.O_RDONLY | os.O_NONBLOCK | _NO_FOLLOW, dir_fd=descriptor)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK, errno.ENOTDIR):
            raise CheckpointError(
                f"{folder / name}: a link or a file in place of a folder, which is not followed"
            ) from error
        raise
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(os.fstat(opened).st_mode):
        os.close(opened)
        raise CheckpointError(f"{folder / name}: expected a regular file")
    return open(opened, "rb")


def digest(file: IO[bytes]) -> str:
    """Return the BLAKE2b checksum of the rest of a file, 40 hexadecimal digits."""
    found = hashlib.blake2b(digest_size=20)
    while block := file.read(_BLOCK):
        found.update(block)
    return found.hexdigest()


def copy_inside(source: Path, target: Path, names: Iterable[str] | Mapping[str, object]) -> None:
    """Copy files of a folder to another one, following no link.

    Args:
        source: the folder.
        target: the other folder, created if it does not exist.
        names: relative names of the files; what else is in the folder is not copied.

    Raises:
        CheckpointError: see `open_inside`.
    """
    for name in names:
        path = target / check_relative(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with open_inside(source, name) as file, open(path, "xb") as copy:
            shutil.copyfileobj(file, copy, _BLOCK)


def copy_loaded(
    source: Path, target: Path, *, within: str = "", patterns: Sequence[str] = ("**/*",), without: Sequence[str] = ()
) -> None:
    """Copy files of a model that was loaded from a folder or from the cache of the Hugging Face hub.

    The cache keeps every file once and links to it. Such links, from a snapshot to the blobs of its repository, are
    followed, and no others.

    Args:
        source: folder of the model.
        target: the other folder, created if it does not exist; existing files are kept.
        within: subfolder to copy; empty copies the files of the folder itself.
        patterns: patterns of their names.
        without: names of files to leave out.

    Raises:
        CheckpointError: a link that leads elsewhere; the message names it.
    """
    allowed = source.parent.parent / "blobs" if source.parent.name == "snapshots" else source
    for path in sorted({found for pattern in patterns for found in (source / within).glob(pattern)}):
        if path.name in without or (path.is_dir() and not path.is_symlink()):
            continue
        if not path.resolve().is_relative_to(allowed.resolve()) and not path.resolve().is_relative_to(source.resolve()):
            raise CheckpointError(f"{path} is a link out of its folder, which is not followed: replace it by a file")
        copy = target / path.relative_to(source)
        if not copy.exists():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path.resolve(), copy)
