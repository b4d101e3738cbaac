"""Inputs and expected values of algorithms, most of them from the authors' code, in float64."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent / "algorithm_vectors.json").read_text())


def vector(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs and expected values; lists and numbers as float64 tensors, all else as it is in the file."""
    entry = VECTORS[name]
    return _tensors(entry["inputs"]), _tensors(entry["expected"])


def close(actual: Any, expected: Any, atol: float = 1e-10) -> None:
    """The same shape, and values within 1e-10; `torch.testing` takes seconds to import."""
    found, wanted = (np.asarray(each.detach() if isinstance(each, Tensor) else each) for each in (actual, expected))
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=0, atol=atol)


def _tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _tensors(each) for name, each in value.items()}
    try:
        return tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return value


def tensor(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)
