"""``metrics.jsonl``: one JSON object per iteration, on the disk before the next iteration starts.

Beside it, ``metrics_schema.json`` keeps the kind, label, unit and format of every metric by name.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from flexgym.core.errors import CheckpointError, ConfigError
from flexgym.core.files import open_own, teaching_disk_errors, write_atomic
from flexgym.core.json_text import parse_json, read_json_file
from flexgym.core.metrics import Metric, from_description, plain
from flexgym.core.text import PlainLogger

SCHEMA = "metrics_schema.json"
_log = PlainLogger(__name__)


class MetricsLog:
    """Appends the metrics of each iteration to a file and survives a kill at any point.

    Opening an existing file repairs it: a line that a kill left half written is removed, and with ``through`` the rows
    of iterations that will be run again.

    Attributes:
        path: the file.
        schema: kind and look of every metric so far by name, without values.
    """

    def __init__(self, path: str | Path, *, through: int | None = None) -> None:
        """Open ``path`` for appending.

        Args:
            path: the file; made when missing.
            through: last iteration to keep, the checkpoint's when resuming; None keeps all rows.
        """
        self.path = Path(path)
        kept, broken = _kept_lines(self.path, through)
        if broken:
            _log.warning("%s: dropped %d line(s) that were not complete rows", self.path, broken)
        data = b"".join(line + b"\n" for line in kept)
        if not self.path.exists() or data != self.path.read_bytes():
            write_atomic(self.path, data)
        self._last = parse_json(kept[-1])["iteration"] if kept else -1
        self.schema = read_schema(self.path)
        self._descriptor = open_own(self.path, os.O_WRONLY | os.O_APPEND)

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row and force it to the disk.

        Args:
            row: metrics, plain values, NumPy or Torch scalars and arrays by name; NaN and infinity become null. It
                holds ``iteration``, larger than that of the row before.

        Raises:
            ConfigError: no such iteration, or a value that JSON cannot hold.
            CheckpointError: the run folder was deleted or moved in the meantime, or writing failed; the file is then as
                it was before.
        """
        values = {str(key): _plain(value, key) for key, value in row.items()}
        iteration = values.get("iteration")
        if not isinstance(iteration, int) or isinstance(iteration, bool) or iteration <= self._last:
            raise ConfigError(
                f"{self.path}: expected a row with an integer 'iteration' above {self._last} "
                f"(one row per iteration), got {iteration!r}."
            )
        with teaching_disk_errors(f"the row of iteration {iteration} cannot be written to {self.path}"):
            self._check_still_there()
            self._extend_schema(row)
            self._write(json.dumps(values, allow_nan=False, ensure_ascii=False).encode() + b"\n")
        self._last = iteration

    def _check_still_there(self) -> None:
        """Raise if the path no longer leads to the open file; without this, rows would go to a deleted file."""
        mine = os.fstat(self._descriptor)
        try:
            found = os.stat(self.path, follow_symlinks=False)
        except FileNotFoundError:
            found = None
        if found is None or (found.st_dev, found.st_ino) != (mine.st_dev, mine.st_ino):
            raise CheckpointError(
                f"{self.path.parent}: the run folder was deleted, moved or replaced while the run was writing to it"
            )

    def _write(self, data: bytes) -> None:
        size = os.fstat(self._descriptor).st_size
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._descriptor, view) :]
            os.fsync(self._descriptor)
        except OSError:
            os.ftruncate(self._descriptor, size)
            raise

    def close(self) -> None:
        """Close the file; further calls do nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _extend_schema(self, row: Mapping[str, Any]) -> None:
        """Write the sidecar anew where the row holds a metric that it does not know as it is."""
        known = {name: metric.describe() for name, metric in self.schema.items()}
        found = {name: metric.describe() for name, metric in row.items() if isinstance(metric, Metric)}
        if found.items() <= known.items():
            return
        known.update(found)
        write_atomic(self.path.with_name(SCHEMA), json.dumps(known, indent=1, ensure_ascii=False).encode())
        self.schema = {name: from_description(description) for name, description in known.items()}

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Read all complete rows of a ``metrics.jsonl``, in order; an empty list when there is no such file.

    Args:
        path: the file, which may be in use by a running job.

    Returns:
        One dict per iteration; null is None.
    """
    return [parse_json(line) for line in _kept_lines(Path(path), None)[0]]


def read_schema(path: str | Path) -> dict[str, Metric]:
    """Read kind and look of the metrics in a ``metrics.jsonl``; empty when nothing wrote them.

    Args:
        path: the file, with ``metrics_schema.json`` in the same folder.

    Returns:
        Metrics without values by name.
    """
    try:
        described = read_json_file(Path(path).with_name(SCHEMA))
        return {name: from_description(description) for name, description in described.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, AttributeError, TypeError):
        _log.warning("%s cannot be read: metrics of earlier iterations are shown without their labels", SCHEMA)
        return {}


def _kept_lines(path: Path, through: int | None) -> tuple[list[bytes], int]:
    if not path.exists():
        return [], 0
    kept: list[bytes] = []
    broken = 0
    for line in path.read_bytes().split(b"\n"):
        if not line.strip():
            continue
        iteration = _row_iteration(line)
        if iteration is None:
            broken += 1
        elif through is None or iteration <= through:
            kept.append(line)
    return kept, broken


def _row_iteration(line: bytes) -> int | None:
    try:
        row = parse_json(line)
    except ValueError:
        return None
    iteration = row.get("iteration") if isinstance(row, dict) else None
    return iteration if isinstance(iteration, int) else None


def _plain(value: Any, key: str) -> Any:
    value = plain(value)
    # NumPy and Torch scalars and arrays both have tolist(), which needs neither library here.
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(inner, key) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner, key) for inner in value]
    raise ConfigError(f"metric {key!r}: expected a number, text or a list of them, got {type(value).__name__}.")
