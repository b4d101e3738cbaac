"""``runs/<name>/``: the one place where a run writes."""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from flexgym.core.errors import CheckpointError, ConfigError
from flexgym.core.files import (
    cause_of,
    held_folder,
    open_inside,
    regular_files,
    remove_unless_held,
    teaching_disk_errors,
    write_atomic,
)
from flexgym.core.lock import FolderLock
from flexgym.core.urls import url_of
from flexgym.core.yaml_files import dump_yaml
from flexgym.runs.checkpoints import CHECKPOINTS, CheckpointStore, iteration_of, resolve_checkpoint, run_of
from flexgym.runs.manifest import read_manifest
from flexgym.runs.metrics import MetricsLog
from flexgym.runs.record_files import remove_later_records
from flexgym.runs.storage import RemoteCheckpoints, RemoteRun, cache

NEWEST_CONFIG = "config_newest"
"""File of a run folder with the name of the config that the run was last started with."""
RUN_ID = "run_id"
"""File of a run folder with the id under which trackers know the run."""
_RECORDS = ("metrics.jsonl", "samples", "failed_samples", "checkpoints")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
_CONFIG = re.compile(r"config(_from_\d{6,}(-\d+)?)?\.yaml")
_ID = re.compile(r"[0-9a-f]{16}")
_MAX_POINTER = 200


class RunFolder:
    """Config, metrics, samples and checkpoints of one run.

    Make one with `create` or `resume`, and close it (or use ``with``). Until then, or until the process ends, no other
    can open the run.

    Attributes:
        path: ``runs/<name>``, absolute; of a run at a URL the working copy on this machine.
        remote: the run at its URL; None for a folder.
        samples: folder for sample grids and videos.
        id: 16 hexadecimal digits that stay with the run when it is resumed.
        checkpoints: atomic checkpoints.
        metrics: ``metrics.jsonl``. Append the row of an iteration before publishing its checkpoint; then a resumed run
            has every row up to the checkpoint.
        start_iteration: finished iterations that the run starts from: 0, or that of ``resumed_from``.
        resumed_from: the checkpoint to restore, None for a new run.
    """

    def __init__(
        self,
        path: Path,
        *,
        keep: int | None,
        resume: Path | None,
        required: Sequence[str] = (),
        remote: RemoteRun | None = None,
    ) -> None:
        """Open the parts; use `create` or `resume` instead."""
        path = path.resolve()  # a trainer under Ray Tune changes its working folder
        self.path, self.remote = path, remote
        self._working_copy = contextlib.ExitStack()
        self.samples = path / "samples"
        cannot_open = teaching_disk_errors(f"the run folder {path} cannot be opened for writing", ConfigError)
        with contextlib.ExitStack() as opened, cannot_open:
            _check_links(path)
            opened.enter_context(FolderLock(path))
            # Looked for under the lock: before, the process that had the run may have published or removed one.
            self.resumed_from = None if resume is None else resolve_checkpoint(resume, set_aside=True)
            self.start_iteration = 0 if self.resumed_from is None else iteration_of(self.resumed_from)
            if self.resumed_from is not None:
                _check_trainer(self.resumed_from, required)
            _remove_leftovers(path)
            self.id = _run_id(path)
            self.samples.mkdir(exist_ok=True)
            folder = path / CHECKPOINTS
            self.checkpoints = (
                RemoteCheckpoints(folder, keep=keep, remote=remote) if remote else CheckpointStore(folder, keep=keep)
            )
            if self.resumed_from is not None:
                self.checkpoints.rewind(self.start_iteration)
            through = None if self.resumed_from is None else self.start_iteration
            remove_later_records(path, -1 if through is None else through)
            self.metrics = MetricsLog(path / "metrics.jsonl", through=through)
            opened.callback(self._upload)
            opened.callback(lambda: self.metrics.close())
            self._opened = opened.pop_all()

    @classmethod
    def create(cls, root: str | Path, name: str, *, keep: int | None = 3) -> RunFolder:
        """Make ``root/name``, or ``root/name-2``, ``-3`` ... when the name is taken; nothing old is touched.

        Args:
            root: usually ``runs``, or a URL such as ``s3://bucket/runs``; made when missing.
            name: letters, digits, dot, dash and underscore.
            keep: number of newest checkpoints to keep; None keeps all.

        Raises:
            ConfigError: a name that would leave the root or trouble a shell, or a root that is a file.
        """
        if not _NAME.match(name):
            raise ConfigError(
                f"run name: expected letters, digits, '.', '-' or '_', at most 100 and starting with a letter "
                f"or digit; got {name!r}."
            )
        if url := url_of(root):
            remotes = (RemoteRun(f"{url}/{each}") for each in numbered_names(name))
            return cls._at_url(next(remote for remote in remotes if not remote.exists()), keep=keep)
        for path in (Path(root) / each for each in numbered_names(name)):
            try:
                path.mkdir(parents=True)
                break
            except FileExistsError:
                continue
            except NotADirectoryError as error:
                raise ConfigError(f"{root}: expected a folder for runs, got a file.") from error
            except OSError as error:
                raise ConfigError(f"run.root: the folder for runs cannot be written to: {cause_of(error)}") from error
        return cls(path, keep=keep, resume=None)

    @classmethod
    def resume(cls, path: str | Path, *, keep: int | None = 3, required: Sequence[str] = ()) -> RunFolder:
        """Open a run folder to resume the run.

        Rows of ``metrics.jsonl`` after the checkpoint go, since they will be written again; later checkpoints move to
        ``checkpoints/superseded``.

        Args:
            path: ``runs/<name>`` for its newest complete checkpoint, or one checkpoint in it; a folder or a URL.
            keep: number of newest checkpoints to keep; None keeps all.
            required: parts that the checkpoint must have for the trainer that resumes.

        Raises:
            CheckpointError: no complete checkpoint there, one of another trainer, a link in the folder, or another
                process has the run open.
            ConfigError: the folder cannot be written to.
        """
        if url := url_of(path):
            return cls._at_url(RemoteRun(url), keep=keep, required=required, resume=True)
        return cls(run_of(path), keep=keep, resume=Path(path).absolute(), required=required)

    @classmethod
    def _at_url(
        cls, remote: RemoteRun, *, keep: int | None, required: Sequence[str] = (), resume: bool = False
    ) -> RunFolder:
        """Open a run at a URL through a working copy, which lasts until the run is closed."""
        with contextlib.ExitStack() as stack:
            with teaching_disk_errors("the working copy of the run cannot be made", ConfigError):
                path = stack.enter_context(held_folder(cache() / "run")) / remote.url.rpartition("/")[2]
                path.mkdir()
            if resume:
                remote.download(path)
                remote.check_resumable()
            remote.own()
            if resume:
                remote.download_checkpoint(path, set_aside=True)
            run = cls(path, keep=keep, resume=path if resume else None, required=required, remote=remote)
            run._working_copy = stack.pop_all()
        return run

    @property
    def shown(self) -> str:
        """The path or URL as a person would type it: relative where it lies inside the working folder."""
        if self.remote:
            return self.remote.url
        here = Path.cwd()
        return str(self.path.relative_to(here) if self.path.is_relative_to(here) else self.path)

    def write_config(self, values: Mapping[str, Any]) -> Path:
        """Write the full effective config; those of earlier starts stay.

        Args:
            values: plain values by section, as `flexgym.config.describe.describe` returns them.

        Returns:
            ``config.yaml``, or ``config_from_000010.yaml`` when resumed from iteration 10, and ``config_from_000010-2``
            when resumed there a second time. `newest_config` finds it.
        """
        name, number = "config.yaml", 2
        if self.resumed_from:
            stem = f"config_from_{self.start_iteration:06d}"
            name = f"{stem}.yaml"
            while (self.path / name).exists():
                name, number = f"{stem}-{number}.yaml", number + 1
        with teaching_disk_errors(f"{self.path / name} cannot be written"):
            write_atomic(self.path / name, dump_yaml(dict(values)).encode())
            write_atomic(self.path / NEWEST_CONFIG, f"{name}\n".encode())
        return self.path / name

    def rewind(self) -> None:
        """Go back to the newest complete checkpoint, or to before the first iteration where there is none.

        ``resumed_from`` and ``start_iteration`` say what to train from again; later rows of ``metrics.jsonl`` are
        removed as by `resume`.
        """
        self.metrics.close()
        found = self.checkpoints.latest()
        self.resumed_from = None if found is None else resolve_checkpoint(self.path, set_aside=True)
        self.start_iteration = 0 if self.resumed_from is None else iteration_of(self.resumed_from)
        last = -1 if self.resumed_from is None else self.start_iteration
        self.checkpoints.rewind(last)
        remove_later_records(self.path, last)
        self.metrics = MetricsLog(self.path / "metrics.jsonl", through=last)

    def remove_unused(self) -> None:
        """Remove the closed folder of a new run that recorded nothing: neither metrics, samples nor a checkpoint."""
        recorded = [self.path / name for name in _RECORDS]
        if self.resumed_from is None and not any(_has_content(path) for path in recorded):
            shutil.rmtree(self.path, ignore_errors=True)

    def close(self) -> None:
        """Close the open files and let others open the run; further calls do nothing."""
        with self._working_copy:
            self._opened.close()

    def _upload(self) -> None:
        """Bring a run at a URL up to date; keep the working copy where that fails."""
        if self.remote is None:
            return
        try:
            self.remote.upload(self.path)
        except CheckpointError as error:
            kept = cache() / f"unsaved-{self.path.name}-{uuid.uuid4().hex[:8]}"
            self.path.rename(kept)
            raise CheckpointError(f"{error}. What was not uploaded is in {kept}") from error

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def newest_config(run: Path) -> Path:
    """Return the config that a run was last started or resumed with; ``config.yaml`` where nothing says so.

    Args:
        run: the run folder.

    Raises:
        CheckpointError: `NEWEST_CONFIG` names no config of the folder.
    """
    try:
        with open_inside(run, NEWEST_CONFIG) as file:
            name = file.read(_MAX_POINTER).decode("ascii", "replace").strip()
    except FileNotFoundError:
        return run / "config.yaml"
    if not _CONFIG.fullmatch(name) or not (run / name).is_file():
        raise CheckpointError(
            f"{run / NEWEST_CONFIG}: expected the name of a config in this folder, such as config.yaml, got {name!r}."
            " Name the settings yourself: --config FILE"
        )
    return run / name


def _check_links(path: Path) -> None:
    """Raise an error for a folder with links, through which something else would be written; see also `Manifest`.

    Raises:
        CheckpointError: naming the first link.
    """
    regular_files(path, without=("checkpoints",))
    if (path / "checkpoints").is_symlink():
        raise CheckpointError(f"{path / 'checkpoints'} is a link, and links are not followed here: replace it")


def _check_trainer(checkpoint: Path, required: Sequence[str]) -> None:
    manifest = read_manifest(checkpoint)
    if manifest.required and (lacking := manifest.lacks(required)):
        raise CheckpointError(
            f"{checkpoint}: a run of another kind: this trainer needs {', '.join(lacking)}, and the checkpoint has"
            f" {', '.join(manifest.required)}. Resume it with the command that started it"
        )


def _remove_leftovers(path: Path) -> None:
    """Remove what a killed process left half written; nobody else writes here while the lock is held."""
    for folder in (path, *(entry for entry in path.iterdir() if entry.is_dir() and entry.name != "checkpoints")):
        for left in list(folder.glob(".tmp-*")):
            remove_unless_held(left)


def numbered_names(name: str) -> Iterator[str]:
    """Yield the names that a run of some name may get, in order: ``name``, ``name-2``, ``name-3``, without end."""
    yield name
    yield from (f"{name}-{number}" for number in itertools.count(2))


def _run_id(path: Path) -> str:
    """Return the id of a run; a new one, on the disk by then, for a run without."""
    with contextlib.suppress(FileNotFoundError), open_inside(path, RUN_ID) as file:
        found = file.read(_MAX_POINTER).decode("ascii", "replace").strip()
        if _ID.fullmatch(found):
            return found
    new = uuid.uuid4().hex[:16]
    write_atomic(path / RUN_ID, f"{new}\n".encode())
    return new


def _has_content(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists() and path.stat().st_size > 0
