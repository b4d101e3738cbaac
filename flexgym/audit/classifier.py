"""A small classifier of shapes, trained by ``python -m research.audit`` on drawings of another library."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

SHAPES = ("circle", "square", "triangle", "cross", "ring", "bar")
"""Classes in the order of the outputs; the one after them is `OTHER`."""
OTHER = len(SHAPES)
"""Class of everything that is none of the shapes, such as two things that touch."""
LAYERS = ("first", "second", "third")
WEIGHTS = Path(__file__).parent / "shapes.safetensors"

Floats = NDArray[np.float32]


@cache
def _weights() -> Mapping[str, Floats]:
    return load_file(WEIGHTS)


def log_probabilities(features: Floats) -> Floats:
    """Compute the log-probability of each class.

    Args:
        features: float32 ``[n, D]``, see `flexgym.audit.segments.features`.

    Returns:
        float32 ``[n, len(SHAPES) + 1]``.
    """
    values, weights = features, _weights()
    for layer in LAYERS:
        values = values if layer == LAYERS[0] else np.maximum(values, 0.0)
        values = values @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"]
    values = values - values.max(axis=1, keepdims=True)
    return values - np.log(np.exp(values).sum(axis=1, keepdims=True))
