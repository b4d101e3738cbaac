"""Precision of what trains apart from that of the arithmetic, and steps that are too small for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from flexgym.core.errors import ConfigError, unknown_name

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_USUAL_WEIGHT = 0.02  # the spread that transformers draws weights with
_TRL_SETTINGS = ("bf16", "fp16")


def check_precision(*, dtype: str, compute_dtype: str | None, trainer: Mapping[str, Any]) -> None:
    """Refuse precisions that do not fit together.

    Args:
        dtype: of the weights.
        compute_dtype: of the arithmetic; None is that of the weights.
        trainer: options of TRL's config.

    Raises:
        ConfigError: arithmetic finer than the weights, or a precision that TRL alone would know of.
        UnknownNameError: no such dtype.
    """
    for name, value in (("dtype", dtype), ("compute_dtype", compute_dtype or dtype)):
        if value not in DTYPES:
            raise unknown_name(name, value, DTYPES)
    if compute_dtype == "float32" and dtype != "float32":
        raise ConfigError(
            "judge.compute_dtype=float32: expected no finer arithmetic than that of the weights, got"
            f" judge.dtype={dtype}; set judge.dtype=float32"
        )
    for name in _TRL_SETTINGS:
        if name in trainer:
            raise ConfigError(
                f"training.trainer.{name}: the precision is set by judge.dtype and judge.compute_dtype, got"
                f" {trainer[name]}; judge.compute_dtype=bfloat16 is TRL's bf16"
            )


def check_steps(rate: float | Sequence[Sequence[float]], trained: torch.dtype) -> None:
    """Refuse learning rates whose steps would leave most weights as they are.

    A step of Adam is about as long as the rate, whatever the gradient. Added to a number, it is lost below half of the
    distance to the next one, and it is lost again in every later step.

    Args:
        rate: a number, or ``[[rows, rate], ...]``.
        trained: precision of the weights that train.

    Raises:
        ConfigError: the highest rate is too low.
    """
    highest = float(rate) if isinstance(rate, int | float) else max(value for _, value in rate)
    lost = _USUAL_WEIGHT * torch.finfo(trained).eps / 2
    if 0 < highest < lost:
        raise ConfigError(
            f"training.lr: expected at least {lost:.1e} where weights train in {str(trained).removeprefix('torch.')},"
            f" which steps of {highest:.1e} leave as they are; raise it, keep the weights in float32 with"
            " judge.dtype=float32 judge.compute_dtype=bfloat16, or train an adapter with judge.mode=lora"
        )
