"""State of training as JSON and safetensors: plain values and tensors, nothing that can run code when it is read.

A folder holds `STATE`, the tree of values, and `TENSORS`, which the tree refers to by name. Values that JSON does not
have are written as an object with one key: ``{"dict": [[key, value], ...]}``, ``{"tuple": [...]}``, ``{"float":
"nan"}``, ``{"tensor": name}``, ``{"array": name}`` (of NumPy) and ``{"scalar": name}`` (of NumPy).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from flexgym.core.errors import CheckpointError
from flexgym.core.files import write_atomic
from flexgym.core.json_text import read_json_file

STATE, TENSORS = "state.json", "tensors.safetensors"
MAX_BYTES = 256 * 2**20
"""Size of the largest tree that is read, without its tensors."""
MAX_DEPTH = 30
"""Number of levels of the deepest tree that is written or read."""
_VERSION = 1
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def write_state(folder: Path, tree: Mapping[str, Any]) -> None:
    """Write a tree of values into a folder.

    Args:
        folder: where to; created if it does not exist.
        tree: of dict (keys are str or int), list, tuple, None, bool, int, float, str, NumPy arrays and scalars, and
            tensors.

    Raises:
        CheckpointError: a value of another type, or more than `MAX_DEPTH` levels; the message has its path.
        OSError: writing failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    writer = _Writer()
    content = {"version": _VERSION, "state": writer.encoded(tree, ())}
    try:
        save_file(writer.tensors, folder / TENSORS)
    except SafetensorError as error:  # such as a full disk, which is no OSError there
        raise OSError(str(error)) from error
    write_atomic(folder / STATE, json.dumps(content, allow_nan=False).encode())


def read_state(folder: Path) -> dict[str, Any]:
    """Read a tree that `write_state` wrote; tensors are on the CPU.

    Raises:
        CheckpointError: a file is missing, damaged, too large or too deep, or the two do not belong together.
    """
    try:
        content = read_json_file(folder / STATE, max_bytes=MAX_BYTES)
        if not isinstance(content, dict) or content.get("version") != _VERSION or "state" not in content:
            raise CheckpointError(f"{folder / STATE}: expected state of version {_VERSION}, got something else")
        with safe_open(folder / TENSORS, framework="pt") as file:
            reader = _Reader({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 (no mapping)
        tree = reader.decoded(content["state"], ())
    except (ValueError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: the state cannot be read ({error}): the checkpoint is damaged") from error
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder}: expected {STATE} and {TENSORS}, and one of them is missing") from error
    if not isinstance(tree, dict):
        raise CheckpointError(f"{folder / STATE}: expected a mapping, got {type(tree).__name__}")
    if unread := reader.tensors.keys() - reader.read:
        raise CheckpointError(f"{folder / TENSORS}: {STATE} does not mention the tensors {sorted(unread)[:5]}")
    return tree


Place = tuple[str | int, ...]


def _named(path: Place) -> str:
    return "/".join(map(str, path)) or "the state"


def _check_depth(path: Place) -> None:
    if len(path) > MAX_DEPTH:
        raise CheckpointError(f"{_named(path[:6])}/...: expected at most {MAX_DEPTH} levels")


class _Writer:
    """Turns values into JSON and collects their tensors, each of which is written once."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._names: dict[int, str] = {}
        self._storages: set[int] = set()
        self._alive: list[Any] = []  # an id names an object for as long as it lives

    def encoded(self, value: Any, path: Place) -> Any:
        _check_depth(path)
        if value is None or isinstance(value, bool | str) or type(value) is int:
            return value
        if isinstance(value, Tensor):
            return {"tensor": self._kept(value, value.detach(), path)}
        if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
            kind = "array" if isinstance(value, np.ndarray) else "scalar"
            return {kind: self._kept(value, torch.from_numpy(np.array(value, order="C")), path)}
        if type(value) is float:
            return value if math.isfinite(value) else {"float": str(value)}
        if isinstance(value, Mapping):
            items = value.items()
            return {"dict": [[_key(key, path), self.encoded(item, (*path, key))] for key, item in items]}
        if isinstance(value, list | tuple):
            items_ = [self.encoded(item, (*path, number)) for number, item in enumerate(value)]
            return {"tuple": items_} if isinstance(value, tuple) else items_
        raise CheckpointError(
            f"{_named(path)}: expected plain values, NumPy arrays and tensors in a checkpoint, got"
            f" {type(value).__module__}.{type(value).__qualname__}"
        )

    def _kept(self, value: Any, tensor: Tensor, path: Place) -> str:
        if id(value) in self._names:
            return self._names[id(value)]
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise CheckpointError(f"{_named(path)}: expected a dense tensor, got {tensor.layout}")
        tensor = tensor.cpu().contiguous()
        if tensor.untyped_storage().data_ptr() in self._storages:  # the format has no shared memory
            tensor = tensor.clone()
        self._storages.add(tensor.untyped_storage().data_ptr())
        name = f"{len(self.tensors):06d}:{_named(path)}"[:500]
        self.tensors[name], self._names[id(value)] = tensor, name
        self._alive.append(value)
        return name


class _Reader:
    """Turns JSON back into values.

    Attributes:
        tensors: those of the file by name.
        read: names of the tensors that a value refers to.
    """

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self.read: set[str] = set()

    def decoded(self, value: Any, path: Place) -> Any:
        _check_depth(path)
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, list):
            return [self.decoded(item, (*path, number)) for number, item in enumerate(value)]
        kind, content = next(iter(value.items())) if len(value) == 1 else ("", None)
        if kind == "dict" and isinstance(content, list):
            return dict(self._item(pair, path) for pair in content)
        if kind == "tuple" and isinstance(content, list):
            return tuple(self.decoded(content, path))
        if kind == "float" and content in _NOT_FINITE:
            return _NOT_FINITE[content]
        if kind in ("tensor", "array", "scalar") and isinstance(content, str):
            return self._tensor(kind, content, path)
        raise CheckpointError(f"{_named(path)}: {str(value)[:80]} is no value of a checkpoint")

    def _item(self, pair: Any, path: Place) -> tuple[str | int, Any]:
        if not isinstance(pair, list) or len(pair) != 2:
            raise CheckpointError(f"{_named(path)}: expected pairs of a key and a value, got {str(pair)[:80]}")
        key = _key(pair[0], path)
        return key, self.decoded(pair[1], (*path, key))

    def _tensor(self, kind: str, name: str, path: Place) -> Any:
        if name not in self.tensors:
            raise CheckpointError(f"{_named(path)}: the tensor {name!r} is missing in {TENSORS}")
        self.read.add(name)
        if kind == "tensor":
            return self.tensors[name]
        array = self.tensors[name].numpy()
        return array if kind == "array" else array[()]


def _key(key: Any, path: Place) -> str | int:
    if type(key) in (str, int):
        found: str | int = key
        return found
    raise CheckpointError(f"{_named(path)}: expected text or whole numbers as keys, got {key!r}")
