"""Transformations of advantages within a loss, as tensors of any shape."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from flexgym.core.errors import ConfigError, unknown_name

OptimalityMode = Literal["all", "positive_only", "negative_only", "one_only", "binary"]
OPTIMALITY_MODES = ("all", "positive_only", "negative_only", "one_only", "binary")
"""Names of the modes that `optimality` knows."""


def unit_advantage(advantage: Tensor, *, clip: float = 5.0) -> Tensor:
    """Scale advantages to [-1, 1], ``clip(A, -c, c) / c`` (AWM, arXiv 2509.25050).

    Args:
        advantage: any shape.
        clip: advantage that becomes 1, above 0.

    Raises:
        ConfigError: the clip is not positive.
    """
    if not clip > 0:
        raise ConfigError(f"clip of the advantage must be positive, got {clip}")
    return advantage.clamp(-clip, clip) / clip


def soft_clip(advantage: Tensor, *, eta: float) -> Tensor:
    """Bound advantages smoothly, ``eta * tanh(A / eta)`` (V-GRPO, arXiv 2604.23380, with eta from 3 to 5).

    Args:
        advantage: any shape.
        eta: bound, above 0; advantages well below it do not change.

    Raises:
        ConfigError: eta is not positive.
    """
    if not eta > 0:
        raise ConfigError(f"eta of the soft clip must be positive, got {eta}")
    return eta * torch.tanh(advantage / eta)


def optimality(advantage: Tensor, *, clip: float = 5.0, mode: OptimalityMode = "all") -> Tensor:
    """Convert advantages to the optimality probability of DiffusionNFT, ``r = clip(A, -c, c) / c / 2 + 1/2``.

    See arXiv 2509.16117. The mode changes the advantage first:

    - ``"all"`` keeps it.
    - ``"positive_only"`` and ``"negative_only"`` set the other sign to 0, so those samples have r = 1/2.
    - ``"one_only"`` makes it 1 where positive and 0 elsewhere.
    - ``"binary"`` takes its sign.

    As in the authors' code, the clip divides in every mode, so with c = 5 the last two give only 0.4, 0.5 and 0.6.

    Args:
        advantage: any shape.
        clip: advantage that counts as certainly good, above 0.
        mode: one of `OPTIMALITY_MODES`.

    Returns:
        Probabilities in [0, 1], of the same shape.

    Raises:
        ConfigError: the clip is not positive.
        UnknownNameError: the mode is unknown.
    """
    if mode not in OPTIMALITY_MODES:
        raise unknown_name("optimality mode", mode, OPTIMALITY_MODES)
    chosen = advantage
    if mode == "positive_only":
        chosen = advantage.clamp(min=0.0)
    elif mode == "negative_only":
        chosen = advantage.clamp(max=0.0)
    elif mode == "one_only":
        chosen = (advantage > 0).to(advantage.dtype)
    elif mode == "binary":
        chosen = advantage.sign()
    return unit_advantage(chosen, clip=clip) / 2 + 0.5
