"""Weights of samples in regression on them: by their reward, or for the best of each group alone."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from flexgym.core.errors import ConfigError, unknown_name

RewardWeight = Literal["exponential", "linear"]
REWARD_WEIGHTS = ("exponential", "linear")
"""Names of the weights that `reward_weights` knows."""


def reward_weights(
    advantage: Tensor, *, form: RewardWeight = "exponential", temperature: float = 1.0, max_weight: float = 20.0
) -> Tensor:
    """Compute the weights of reward-weighted regression (Peters and Schaal, 2007).

    ``"exponential"`` is ``min(exp(A / temperature), max_weight)``, with the bound of AWR (arXiv 1910.00177).
    ``"linear"`` is ``A`` itself where it is positive and 0 elsewhere, for rewards that are not centered (arXiv
    2302.12192).

    Args:
        advantage: any shape; no gradient flows into it.
        form: one of `REWARD_WEIGHTS`.
        temperature: advantage that multiplies a weight by e, above 0.
        max_weight: largest weight, above 0.

    Returns:
        Weights of the same shape.

    Raises:
        ConfigError: the temperature or the largest weight is not a positive number.
        UnknownNameError: the form is unknown.
    """
    if form not in REWARD_WEIGHTS:
        raise unknown_name("reward weight", form, REWARD_WEIGHTS)
    for name, value in (("temperature", temperature), ("max_weight", max_weight)):
        if not (math.isfinite(value) and value > 0):
            raise ConfigError(f"{name} of reward-weighted regression: expected a positive number, got {value}")
    given = advantage.detach()
    weights = (given / temperature).exp() if form == "exponential" else given.clamp(min=0.0)
    return weights.clamp(max=max_weight)


def best_weights(advantage: Tensor, *, best: int = 1) -> Tensor:
    """Return 1 for the best samples of each group and 0 for the others (best-of-N distillation).

    Samples as good as the last of the best count as well. A group without differences has no best samples, unless all
    of its samples are to be kept.

    Args:
        advantage: ``[..., G]``, higher for better samples; no gradient flows into it.
        best: number of samples to keep of each group, at least 1.

    Returns:
        Weights of the same shape.

    Raises:
        ConfigError: the number is below 1.
    """
    if best < 1:
        raise ConfigError(f"best: expected at least 1 sample of each group, got {best}")
    given = advantage.detach()
    if best >= given.shape[-1]:
        return torch.ones_like(given)
    last = given.topk(best, dim=-1).values[..., -1:]
    differs = given.amax(-1, keepdim=True) > given.amin(-1, keepdim=True)
    return ((given >= last) & differs).to(given.dtype)
