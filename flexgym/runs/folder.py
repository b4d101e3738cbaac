"""``runs/<name>/``: the one place where a run writes."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from flexgym.core.errors import ConfigError
from flexgym.core.files import write_atomic
from flexgym.core.lock import FolderLock
from flexgym.core.yaml_files import dump_yaml
from flexgym.runs.checkpoints import CheckpointStore, resolve_checkpoint, verify_checkpoint
from flexgym.runs.metrics import MetricsLog

_RECORDS = ("metrics.jsonl", "samples", "failed_samples", "checkpoints")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")


class RunFolder:
    """Config, metrics, samples and checkpoints of one run.

    Make one with `create` or `resume`, and close it (or use ``with``). Until then, or until the process ends, no other
    can open the run.

    Attributes:
        path: ``runs/<name>``, absolute.
        samples: folder for sample grids and videos.
        tensorboard: folder for TensorBoard's event files.
        checkpoints: atomic checkpoints.
        metrics: ``metrics.jsonl``. Append the row of an iteration before publishing its checkpoint; then a resumed run
            has every row up to the checkpoint.
        start_iteration: finished iterations that the run starts from: 0, or that of ``resumed_from``.
        resumed_from: the checkpoint to restore, None for a new run.
    """

    def __init__(self, path: Path, *, keep: int | None, resume: Path | None) -> None:
        """Open the parts; use `create` or `resume` instead."""
        path = path.resolve()  # a trainer under Ray Tune changes its working folder
        self.path = path
        self.samples = path / "samples"
        self.tensorboard = path / "tensorboard"
        with contextlib.ExitStack() as opened:
            opened.enter_context(FolderLock(path))
            # Looked for under the lock: before, the process that had the run may have published or removed one.
            self.resumed_from = None if resume is None else resolve_checkpoint(resume).resolve()
            self.start_iteration = 0 if self.resumed_from is None else verify_checkpoint(self.resumed_from)
            self.samples.mkdir(exist_ok=True)
            self.checkpoints = CheckpointStore(path / "checkpoints", keep=keep)
            if self.resumed_from is not None:
                self.checkpoints.rewind(self.start_iteration)
            through = None if self.resumed_from is None else self.start_iteration
            self.metrics = MetricsLog(path / "metrics.jsonl", through=through)
            opened.callback(lambda: self.metrics.close())
            self._opened = opened.pop_all()

    @classmethod
    def create(cls, root: str | Path, name: str, *, keep: int | None = 3) -> RunFolder:
        """Make ``root/name``, or ``root/name-2``, ``-3`` ... when the name is taken; nothing old is touched.

        Args:
            root: usually ``runs``; made when missing.
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
        path = Path(root) / name
        number = 1
        while True:
            try:
                path.mkdir(parents=True)
                break
            except FileExistsError:
                number += 1
                path = Path(root) / f"{name}-{number}"
            except NotADirectoryError as error:
                raise ConfigError(f"{root}: expected a folder for runs, got a file.") from error
        return cls(path, keep=keep, resume=None)

    @classmethod
    def resume(cls, path: str | Path, *, keep: int | None = 3) -> RunFolder:
        """Open a run folder to resume the run.

        Rows of ``metrics.jsonl`` after the checkpoint go, since they will be written again; later checkpoints move to
        ``checkpoints/superseded``.

        Args:
            path: ``runs/<name>`` for its newest complete checkpoint, or one checkpoint in it.
            keep: number of newest checkpoints to keep; None keeps all.

        Raises:
            CheckpointError: no complete checkpoint there, or another process has the run open; nothing has been changed
                then.
        """
        return cls(resolve_checkpoint(path).resolve().parents[1], keep=keep, resume=Path(path))

    @property
    def shown(self) -> str:
        """The path as a person would type it: relative where it lies inside the working folder."""
        here = Path.cwd()
        return str(self.path.relative_to(here) if self.path.is_relative_to(here) else self.path)

    def write_config(self, values: Mapping[str, Any]) -> Path:
        """Write the full effective config; that of the first start stays when a run is resumed.

        Args:
            values: plain values by section, as `flexgym.config.describe.describe` returns them.

        Returns:
            ``config.yaml``, or ``config_from_000010.yaml`` when resumed from iteration 10.
        """
        name = f"config_from_{self.start_iteration:06d}.yaml" if self.resumed_from else "config.yaml"
        write_atomic(self.path / name, dump_yaml(dict(values)).encode())
        return self.path / name

    def rewind(self) -> None:
        """Go back to the newest complete checkpoint, or to before the first iteration where there is none.

        ``resumed_from`` and ``start_iteration`` say what to train from again; later rows of ``metrics.jsonl`` are
        removed as by `resume`.
        """
        self.metrics.close()
        self.resumed_from = self.checkpoints.latest()
        self.start_iteration = 0 if self.resumed_from is None else verify_checkpoint(self.resumed_from)
        last = -1 if self.resumed_from is None else self.start_iteration
        self.checkpoints.rewind(last)
        self.metrics = MetricsLog(self.path / "metrics.jsonl", through=last)

    def remove_unused(self) -> None:
        """Remove the closed folder of a new run that recorded nothing: neither metrics, samples nor a checkpoint."""
        recorded = [self.path / name for name in _RECORDS]
        if self.resumed_from is None and not any(_has_content(path) for path in recorded):
            shutil.rmtree(self.path, ignore_errors=True)

    def close(self) -> None:
        """Close the open files and let others open the run; further calls do nothing."""
        self._opened.close()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _has_content(path: Path) -> bool:
    return any(path.iterdir()) if path.is_dir() else path.exists() and path.stat().st_size > 0
