"""Validate the precision of weights and arithmetic, and reject learning rates too small for that precision."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from flexgym.core.errors import ConfigError, unknown_name

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_USUAL_WEIGHT = 0.02  # standard deviation with which transformers initializes weights
_TRL_SETTINGS = ("bf16", "fp16")


def check_precision(*, dtype: str, compute_dtype: str | None, trainer: Mapping[str, Any]) -> None:
    """Check that the precisions of weights and arithmetic are compatible.

    Args:
        dtype: data type of the weights.
        compute_dtype: data type of the arithmetic; None uses that of the weights.
        trainer: options of TRL's config.

    Raises:
        ConfigError: if the arithmetic is more precise than the weights, or a precision is set in TRL's options.
        UnknownNameError: if there is no such dtype.
    """
    for name, value in (("dtype", dtype), ("compute_dtype", compute_dtype or dtype)):
        if value not in DTYPES:
            raise unknown_name(name, value, DTYPES)
    if compute_dtype == "float32" and dtype != "float32":
        raise ConfigError(
            "judge.compute_dtype=float32: expected arithmetic no more precise than the weights, got"
            f" judge.dtype={dtype}; set judge.dtype=float32"
        )
    for name in _TRL_SETTINGS:
        if name in trainer:
            raise ConfigError(
                f"training.trainer.{name}: set the precision with judge.dtype and judge.compute_dtype instead, got"
                f" {trainer[name]}; judge.compute_dtype=bfloat16 is equivalent to TRL's bf16"
            )


def check_steps(rate: float | Sequence[Sequence[float]], trained: torch.dtype) -> None:
    """Check that the learning rate is large enough to change most weights.

    A step of Adam is about as large as the learning rate, whatever the gradient. If it is less than half the distance
    to the next representable number, adding it to a weight changes nothing, in this step and in all later ones.

    Args:
        rate: learning rate, or a schedule ``[[rows, rate], ...]``.
        trained: data type of the trainable weights.

    Raises:
        ConfigError: if the highest learning rate is too small.
    """
    highest = float(rate) if isinstance(rate, int | float) else max(value for _, value in rate)
    lost = _USUAL_WEIGHT * torch.finfo(trained).eps / 2
    if 0 < highest < lost:
        raise ConfigError(
            f"training.lr: expected at least {lost:.1e} for weights in {str(trained).removeprefix('torch.')}, which"
            f" steps of {highest:.1e} leave unchanged; raise it, keep the weights in float32 with"
            " judge.dtype=float32 judge.compute_dtype=bfloat16, or train an adapter with judge.mode=lora"
        )
