"""Runs that live at a URL, such as ``s3://bucket/runs/first``: any store that fsspec knows.

Training writes into a working copy on this machine. Every checkpoint is uploaded as it is complete, its manifest last,
which replaces the atomic renaming that such stores lack. The other files of the run that have changed are uploaded with
it, and at the end. A resume downloads the newest complete checkpoint.

There are no locks at a URL. Whoever opens a run writes a name of its own into the object `OWNER` and looks for it
before each upload: when a second process opens the run, the first one ends at its next checkpoint and uploads nothing
more.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from flexgym.core.errors import CheckpointError
from flexgym.core.files import check_relative, held_folder, regular_files
from flexgym.core.text import PlainLogger
from flexgym.core.urls import url_of
from flexgym.runs.checkpoints import (
    CHECKPOINTS,
    DAMAGED,
    SUPERSEDED,
    CheckpointStore,
    checkpoint_name,
    is_checkpoint_name,
    iteration_of,
    run_of,
)
from flexgym.runs.manifest import MANIFEST, OldCheckpointError, read_manifest

OWNER = "owner"
"""Object at the URL of a run that names the process which has the run open."""
_OF_MACHINE = ("lock", OWNER)
_LEFT_THERE = ("samples", "tensorboard", "failed_samples", CHECKPOINTS)
_THREADS = 8
_log = PlainLogger(__name__)


class StoreError(CheckpointError):
    """A store that cannot be reached or denies access; what it holds may well be undamaged."""


class RemoteRun:
    """A run at a URL.

    Attributes:
        url: of the run, without that of a checkpoint in it.
        checkpoint: name of the checkpoint that the URL named; empty for the newest one.
    """

    def __init__(self, url: str) -> None:
        """Connect to the store.

        Args:
            url: of a run, of its checkpoints, or of one checkpoint.

        Raises:
            CheckpointError: there is no such kind of store, or its library is not installed.
        """
        parent, _, last = url.rpartition("/")
        self.checkpoint = last if is_checkpoint_name(last) else ""
        self.url = (parent if self.checkpoint else url).removesuffix(f"/{CHECKPOINTS}")
        self._mark = f"{os.getpid()} on {socket.gethostname()}, {uuid.uuid4().hex}"
        self._sent: dict[str, tuple[int, int]] = {}
        with self._teaching("opened"):
            from fsspec.core import url_to_fs

            options: dict[str, Any] = {"auto_mkdir": True} if url.startswith(("file:", "local:")) else {}
            self._store, self._root = url_to_fs(self.url, **options)

    # --- objects -----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _teaching(self, what: str) -> Iterator[None]:
        try:
            yield
        except CheckpointError:
            raise
        except Exception as error:  # noqa: BLE001 (every store has errors of its own)
            words = str(error) or type(error).__name__
            raise StoreError(f"{self.url} cannot be {what}: {words}") from error

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}" if name else str(self._root)

    def names(self, folder: str = "") -> list[str]:
        """Return the relative names of all objects below a folder of the run."""
        with self._teaching("listed"):
            self._store.invalidate_cache()
            found = self._store.find(self._at(folder))
        start = f"{self._at(folder)}/"
        return [str(check_relative(name.removeprefix(start))) for name in found if name.startswith(start)]

    def _each(self, work: Callable[[str], Any], names: Sequence[str], what: str) -> None:
        with self._teaching(what), ThreadPoolExecutor(_THREADS) as pool:
            for _ in pool.map(work, names):
                pass

    def _get(self, names: Sequence[str], folder: str, target: Path) -> None:
        def get(name: str) -> None:
            path = target / check_relative(name)
            path.parent.mkdir(parents=True, exist_ok=True)
            self._store.get_file(self._at(f"{folder}/{name}" if folder else name), str(path))

        self._each(get, names, "downloaded")

    def _put(self, source: Path, names: Sequence[str], folder: str) -> None:
        def put(name: str) -> None:
            self._store.put_file(str(source / name), self._at(f"{folder}/{name}" if folder else name))

        self._each(put, names, "uploaded")

    def _move(self, name: str, attic: str) -> str:
        """Move a checkpoint into another folder beside it, under a name that is free there."""
        taken = {each.split("/")[0] for each in self.names(f"{CHECKPOINTS}/{attic}")}
        target, number = name, 2
        while target in taken:
            target, number = f"{name}-{number}", number + 1
        with self._teaching("changed"):
            for file in self.names(f"{CHECKPOINTS}/{name}"):
                self._store.mv(
                    self._at(f"{CHECKPOINTS}/{name}/{file}"), self._at(f"{CHECKPOINTS}/{attic}/{target}/{file}")
                )
        return f"{self.url}/{CHECKPOINTS}/{attic}/{target}"

    # --- opening -----------------------------------------------------------------------------------------------------

    def exists(self) -> bool:
        """Return True if there is anything at the URL."""
        return bool(self.names())

    def check_resumable(self) -> None:
        """Raise if there is no checkpoint at the URL, or not the one that it names."""
        found = self.checkpoints()
        if not found or (self.checkpoint and self.checkpoint not in found):
            wanted = f"no {self.checkpoint}; there are {', '.join(found)}" if found else "no checkpoint"
            raise CheckpointError(f"{self.url}: holds {wanted}, so there is nothing to resume")

    def own(self) -> None:
        """Take the run over from whichever process has it open."""
        with self._teaching("written to"):
            self._store.pipe_file(self._at(OWNER), self._mark.encode())

    def _check_owner(self) -> None:
        with self._teaching("read"):
            self._store.invalidate_cache()
            found = self._store.cat_file(self._at(OWNER)).decode("utf-8", "replace")
        if found != self._mark:
            raise CheckpointError(
                f"{self.url}: another process has opened this run in the meantime"
                f" ({found.partition(',')[0]!r}), so this one ends and uploads nothing more"
            )

    def download(self, target: Path) -> None:
        """Download settings and metrics, but no samples, curves or checkpoints."""
        names = [name for name in self.names() if name.split("/")[0] not in _LEFT_THERE and name not in _OF_MACHINE]
        if not names:
            raise CheckpointError(f"{self.url}: there is no run")
        self._get(names, "", target)
        self._sent = _states(target)

    def checkpoints(self) -> list[str]:
        """Return the names of the checkpoints, the newest first, complete or not."""
        found = {name.split("/")[0] for name in self.names(CHECKPOINTS)}
        return sorted(filter(is_checkpoint_name, found), key=lambda name: iteration_of(Path(name)), reverse=True)

    def download_checkpoint(self, target: Path, *, set_aside: bool = False) -> Path:
        """Download the newest complete checkpoint, or the one that the URL named, and verify it.

        Args:
            target: working copy of the run.
            set_aside: move damaged ones that are newer to ``checkpoints/damaged``.

        Raises:
            CheckpointError: there is none; or the one that was named is damaged.
        """
        for name in [self.checkpoint] if self.checkpoint else self.checkpoints():
            folder = target / CHECKPOINTS / name
            try:
                self._fetch(name, folder)
                return folder
            except (OldCheckpointError, StoreError):
                raise
            except CheckpointError as error:
                shutil.rmtree(folder, ignore_errors=True)
                if self.checkpoint:
                    raise CheckpointError(
                        f"{self.url}/{CHECKPOINTS}/{name}: {error}. Resume from the URL of the run to take its newest"
                        " complete checkpoint."
                    ) from error
                moved = f", so it was moved to {self._move(name, DAMAGED)}" if set_aside else ""
                _log.warning("%s: %s%s; the next older checkpoint is used", name, error, moved)
        raise CheckpointError(f"{self.url}: holds no complete checkpoint, so there is nothing to resume.")

    def _fetch(self, name: str, folder: Path) -> None:
        there = set(self.names(f"{CHECKPOINTS}/{name}"))
        if MANIFEST not in there:
            raise CheckpointError(f"half written: {MANIFEST} is missing")
        self._get([MANIFEST], f"{CHECKPOINTS}/{name}", folder)
        manifest = read_manifest(folder)
        files = manifest.files
        if checkpoint_name(manifest.iteration) != name:
            raise CheckpointError(f"damaged: {MANIFEST} is that of iteration {manifest.iteration}")
        if lost := sorted(files.keys() - there):
            raise CheckpointError(f"half written: {lost[0]} is missing")
        self._get(list(files), f"{CHECKPOINTS}/{name}", folder)
        manifest.check_content(folder)

    # --- writing -----------------------------------------------------------------------------------------------------

    def upload(self, source: Path) -> None:
        """Upload the files of a working copy that have changed, but for checkpoints."""
        self._check_owner()
        states = _states(source)
        changed = [name for name, state in states.items() if self._sent.get(name) != state]
        self._put(source, changed, "")
        self._sent = states

    def upload_checkpoint(self, source: Path, kept: Sequence[str]) -> None:
        """Upload a complete checkpoint and delete those that are not kept.

        Args:
            source: folder of the checkpoint.
            kept: names of the checkpoints to keep.
        """
        self._check_owner()
        self._delete(source.name)
        files = list(read_manifest(source).files)
        self._put(source, files, f"{CHECKPOINTS}/{source.name}")
        self._put(source, [MANIFEST], f"{CHECKPOINTS}/{source.name}")
        for name in self.checkpoints():
            if name not in kept:
                self._delete(name)

    def _delete(self, name: str) -> None:
        """Delete a checkpoint, its manifest first, without which the others count for nothing."""
        files = self.names(f"{CHECKPOINTS}/{name}")
        for file in sorted(files, key=lambda file: file != MANIFEST):
            with self._teaching("changed"):
                self._store.rm_file(self._at(f"{CHECKPOINTS}/{name}/{file}"))

    def set_aside_after(self, iteration: int) -> None:
        """Move the checkpoints after an iteration to ``checkpoints/superseded``."""
        for name in self.checkpoints():
            if iteration_of(Path(name)) > iteration:
                self._move(name, SUPERSEDED)


class RemoteCheckpoints(CheckpointStore):
    """Checkpoints of a working copy, each of which is uploaded.

    Args:
        folder: in the working copy.
        keep: number of newest checkpoints to keep; None keeps all.
        remote: the run at its URL.
    """

    def __init__(self, folder: Path, *, keep: int | None, remote: RemoteRun) -> None:
        super().__init__(folder, keep=keep)
        self._remote = remote

    def publish(self, iteration: int, write: Callable[[Path], None], *, required: Sequence[str] = ()) -> Path:
        """Write and upload a checkpoint, and what else has changed; see `CheckpointStore.publish`."""
        path = super().publish(iteration, write, required=required)
        names = [each.name for each in self.folder.iterdir()]
        here = [name for name in names if is_checkpoint_name(name)]
        # Older ones that were never downloaded are kept as far as they are among the newest.
        kept = sorted({*here, *self._remote.checkpoints()}, key=lambda name: iteration_of(Path(name)))
        self._remote.upload(self.folder.parent)
        self._remote.upload_checkpoint(path, kept if self.keep is None else kept[-self.keep :])
        return path

    def rewind(self, iteration: int) -> None:
        """Set aside the checkpoints after an iteration, here and at the URL."""
        super().rewind(iteration)
        self._remote.set_aside_after(iteration)


def _states(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of each file of a working copy that is uploaded as it is."""
    names = regular_files(folder, without=(CHECKPOINTS,))
    found = {name: (folder / name).stat() for name in names if name not in _OF_MACHINE}
    return {name: (about.st_size, about.st_mtime_ns) for name, about in found.items() if not name.startswith(".tmp-")}


def cache() -> Path:
    """Return the folder of working copies, made when missing."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "flexgym" / "runs"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


@contextlib.contextmanager
def local_run(run: str | Path, *, checkpoint: bool = True) -> Iterator[Path]:
    """Make a run readable on this machine, for as long as the context lasts.

    Args:
        run: a run folder or one checkpoint in it, as a path or a URL.
        checkpoint: needed as well as settings and metrics.

    Yields:
        The path, or a copy of settings, metrics and the newest complete checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    url = url_of(run)
    if url is None:
        yield Path(run)
        return
    remote = RemoteRun(url)
    with held_folder(cache() / "read") as copy:
        remote.download(copy)
        if checkpoint:
            remote.download_checkpoint(copy)
            run_of(copy)
        yield copy
