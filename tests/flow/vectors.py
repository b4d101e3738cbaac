"""Inputs and expected values of algorithms, most of them from the authors' code, in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "algorithm_vectors.json").read_text())


def vector(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and expected values; lists and numbers as float64 tensors, all else as it is in the file."""
    entry = VECTORS[name]
    return _tensors(entry["inputs"]), _tensors(entry["expected"])


def close(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(torch.as_tensor(actual), torch.as_tensor(expected), rtol=0, atol=1e-10)


def _tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tensors(each) for name, each in value.items()}
    try:
        return tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return value


def tensor(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
