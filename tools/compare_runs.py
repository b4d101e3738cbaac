"""Compare two run folders to the bit: ``python -m tools.compare_runs RUN OTHER``.

Everything that a run wrote becomes named arrays: metrics except wall times, exported weights, state (current weights,
optimizer moments, EMA) and the pixels of the sample grids. The exit code is 1 when any of them differs.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageSequence
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from safetensors.torch import load_file

Arrays = dict[str, NDArray[Any]]
EXPORTED = ("generator", "judge")
"""Folders of a checkpoint that hold exported weights; everything else is state."""
_TIME = re.compile(r"(^|/)time/|latency|throughput|seconds|per_second")
_TITLE_ROWS = 50  # of a sample grid: text, which may be reworded
_OWN_PACKAGES = ("agents", "envs", "flexgym", "rewards")


def read_metrics(run: Path, renamed: Mapping[str, str] | None = None) -> Arrays:
    """Read ``metrics.jsonl``: one entry for each iteration and metric except wall times; null becomes NaN.

    Args:
        run: run folder.
        renamed: new names of metrics by those in the file.
    """
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    new_names = renamed or {}
    return {
        f"iteration {row['iteration']}: {new_names.get(name, name)}": _as_array(value)
        for row in rows
        for name, value in row.items()
        if not _TIME.search(name)
    }


def _as_array(value: Any) -> NDArray[Any]:
    return np.asarray(value) if isinstance(value, str) else np.asarray(value, np.float64)


def read_samples(run: Path) -> Arrays:
    """Read the frames of all sample grids as uint8 ``[F, H, W, 3]``, without the title."""
    found = {}
    for path in sorted((run / "samples").glob("iteration_*")):
        with Image.open(path) as image:
            frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
        found[path.name] = np.stack(frames)[:, _TITLE_ROWS:]
    return found


def read_checkpoint(run: Path) -> tuple[Arrays, Arrays]:
    """Read all tensors of the last checkpoint: exported weights, and state."""
    checkpoints = sorted((run / "checkpoints").glob("iteration_*"))
    if not checkpoints:
        raise FileNotFoundError(f"{run / 'checkpoints'}: expected a checkpoint, found none")
    weights, state = Arrays(), Arrays()
    for path in sorted(file for file in checkpoints[-1].rglob("*") if file.is_file()):
        name = path.relative_to(checkpoints[-1])
        target = weights if name.parts[0] in EXPORTED else state
        target.update(_tensors(_content(path), name.as_posix()))
    return weights, state


def _content(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix == ".pkl" and path.name != "class_and_ctor_args.pkl":
        with path.open("rb") as file:
            return _StateUnpickler(file).load()
    if path.suffix in (".pt", ".pth"):
        return torch.load(path, map_location="cpu", weights_only=True)
    if path.suffix == ".npz":
        return dict(np.load(path, allow_pickle=False))
    if path.suffix == ".zip":  # of Stable-Baselines3
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith(".pth")]
            return {name: torch.load(io.BytesIO(archive.read(name)), weights_only=True) for name in names}
    return None


class _Unknown:
    """Stands in for a class of one checkout, which need not exist in the other; keeps its state only."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _Unknown:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.arguments = (args, kwargs)


class _StateUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _Unknown if module.split(".")[0] in _OWN_PACKAGES else super().find_class(module, name)


def _tensors(value: Any, name: str) -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield the tensors and numeric arrays within nested mappings, sequences and objects, by path."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = (value.float() if value.dtype == torch.bfloat16 else value).numpy()  # NumPy has no bfloat16
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        yield name, value
    for key, item in _parts(value):
        if "metrics_logger" not in str(key):  # the wall times that RLlib keeps
            yield from _tensors(item, f"{name}/{key}")


def _parts(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, _Unknown):
        value = vars(value)
    if isinstance(value, Mapping):
        return value.items()
    return enumerate(value) if isinstance(value, (list, tuple)) else ()


# --- comparing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Differences between two sets of named arrays.

    Attributes:
        count: number of arrays of the base.
        differences: one line for each array that differs or is missing, in the order of the base.
        largest: largest absolute difference of any two arrays of one shape; 0.0 without any.
        added: names that only the head has.
    """

    count: int
    differences: tuple[str, ...] = ()
    largest: float = 0.0
    added: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """Return the number of arrays, and how many of them differ."""
        return f"{len(self.differences)} of {self.count} differ" if self.differences else f"{self.count}"

    @property
    def first(self) -> str:
        """Return the first difference, and the largest absolute difference of all; empty where all are equal."""
        if not self.differences:
            return ""
        return f"{self.differences[0]} (largest of all: {self.largest:.3g})"


def compare(base: Arrays, head: Arrays, *, moved: bool = False) -> Comparison:
    """Compare arrays bit by bit; NaN equals NaN.

    Args:
        base: expected arrays by name; none may be missing from ``head``.
        head: arrays by name; it may have more.
        moved: accept an array of the same content under another name, as where a checkpoint is laid out anew.
    """
    left = dict(head)
    differing = [name for name, value in base.items() if name not in left or not _same(value, left[name])]
    for name in base.keys() - set(differing):
        del left[name]
    if moved:
        differing = _take_by_content(base, left, differing)
    lines, sizes = [], [0.0]
    for name in differing:
        other = name if name in left or not moved else _nearest(name, base[name], left)
        line, size = _difference(base[name], left.pop(other, None))
        lines.append(f"{name}{f' (now {other})' if other != name else ''}: {line}")
        sizes.append(size)
    return Comparison(len(base), tuple(lines), largest=max(sizes), added=tuple(left))


def _take_by_content(base: Arrays, left: Arrays, names: Sequence[str]) -> list[str]:
    """Remove from ``left`` an array of the same content for each name of ``base``; return the names without any."""
    by_content = defaultdict(list)
    for name, value in left.items():
        by_content[_digest(value)].append(name)
    missing = []
    for name in names:
        found = by_content[_digest(base[name])]
        if found:
            del left[found.pop(0)]
        else:
            missing.append(name)
    return missing


def _same(first: NDArray[Any], second: NDArray[Any]) -> bool:
    return _digest(first) == _digest(second)


def _digest(value: NDArray[Any]) -> str:
    if value.dtype.kind == "f":
        value = np.where(np.isnan(value), np.asarray(np.nan, value.dtype), value)
    return f"{value.dtype} {value.shape} {hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"


def _nearest(name: str, value: NDArray[Any], left: Arrays) -> str:
    """Return the name of an array of the same shape that shares the longest end with ``name``; ``name`` without any."""
    fitting = [other for other in left if left[other].shape == value.shape]
    return max(fitting, key=lambda other: len(os.path.commonprefix([name[::-1], other[::-1]])), default=name)


def _difference(base: NDArray[Any], head: NDArray[Any] | None) -> tuple[str, float]:
    """Return a description and the largest absolute difference, infinite where one of two numbers is not finite."""
    if head is None:
        return "missing in the head", 0.0
    if base.shape != head.shape or base.dtype != head.dtype:
        return f"{base.dtype}{list(base.shape)} in the base, {head.dtype}{list(head.shape)} in the head", 0.0
    if base.dtype.kind not in "biuf":
        return f"{base} in the base, {head} in the head", 0.0
    with np.errstate(invalid="ignore"):
        gaps = np.abs(base.astype(np.float64) - head.astype(np.float64))
    alike = (base == head) | ((base != base) & (head != head))
    size = float(np.nan_to_num(np.where(alike, 0.0, gaps), nan=np.inf, posinf=np.inf).max())
    shown = f"{base.item()!r} in the base, {head.item()!r} in the head" if base.ndim == 0 else f"differs by {size:.3g}"
    return shown, size


KINDS = ("metrics", "weights", "state", "samples")


def compare_runs(base: Path, head: Path, *, renamed: Mapping[str, str] | None = None) -> dict[str, Comparison]:
    """Compare metrics, exported weights, state and samples of two run folders.

    Args:
        base: run folder with the expected results.
        head: run folder to check.
        renamed: names of metrics in ``head`` by those in ``base``, where they differ.

    Returns:
        One comparison for each of `KINDS`.

    Raises:
        ValueError: the base has no metrics or no state, so that a comparison would prove nothing.
        OSError: a run folder is incomplete.
    """
    (base_weights, base_state), (head_weights, head_state) = read_checkpoint(base), read_checkpoint(head)
    metrics = read_metrics(base, renamed)
    if not metrics or not base_state:
        raise ValueError(f"{base}: expected metrics and a checkpoint with state, got none; remove it and run it again")
    return {
        "metrics": compare(metrics, read_metrics(head)),
        "weights": compare(base_weights, head_weights),
        "state": compare(base_state, head_state, moved=True),
        "samples": compare(read_samples(base), read_samples(head)),
    }


def cells(found: Mapping[str, Comparison]) -> tuple[list[str], bool]:
    """Return the cells of a table row and whether all is equal.

    The cells are a count for each of `KINDS`, then ``equal`` or the first difference.
    """
    first = next((f"{kind}: {found[kind].first}" for kind in KINDS if found[kind].first), "equal")
    added = [name for kind in KINDS for name in found[kind].added]
    note = f"; {len(added)} only in the head, such as {added[0]}" if added else ""
    return [*(found[kind].shown for kind in KINDS), first + note], first == "equal"


def results_table(rows: Mapping[str, Sequence[str]]) -> Table:
    """Return a table of `cells` by the name of the case; a failed case has one cell, the reason."""
    table = Table("case", *KINDS, "result")
    for name, row in rows.items():
        table.add_row(name, *([""] * (len(KINDS) + 1 - len(row))), *map(escape, row))
    return table


def console() -> Console:
    """Return a console that is wide enough for the table, also where the output is not a terminal."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=200)


def main(arguments: Sequence[str]) -> int:
    """Compare the two run folders named and print the result; 1 when anything differs."""
    if len(arguments) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    base, head = map(Path, arguments)
    row, equal = cells(compare_runs(base, head))
    console().print(results_table({base.name: row}))
    return int(not equal)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
