"""Weights of the denoising steps in the loss, so that noisy and quiet steps train at the scale that is asked for.

On policy, the gradient of the plain surrogate with respect to the velocity is proportional to ``K / std``: ``std`` is
the noise of the step and ``K`` how far its mean moves with the velocity. Late steps, which add little noise, would
dominate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from flexgym.core.errors import ConfigError, unknown_name
from flexgym.flow.noise import NoiseScale

StepWeight = Literal["none", "std", "std/h", "std/K"]
STEP_WEIGHTS = ("none", "std", "std/h", "std/K")
"""Names of the weights that `step_weight` knows."""


def velocity_scale(sigma: Tensor, sigma_next: Tensor, *, noise: NoiseScale, sigma_max: float = 0.99) -> Tensor:
    """Compute how far the mean of a step moves with the velocity, ``K = h + drift * (1 - sigma)``.

    It is the absolute derivative of the mean in `flexgym.flow.transition`, with the step length ``h = sigma -
    sigma_next``. For `flexgym.flow.clean_gaussian`, whose mean is ``x - sigma * v``, it is sigma itself.

    Args:
        sigma: noise level before the step, any shape, in (0, 1].
        sigma_next: noise level after the step, of the same shape.
        noise: noise scale of the step.
        sigma_max: see `flexgym.flow.transition`.

    Returns:
        Positive, of the shape of ``sigma``.
    """
    drift, _ = noise.coefficients(sigma, sigma_next, sigma_max)
    return (sigma - sigma_next) + drift * (1.0 - sigma)


def step_weight(
    name: StepWeight, sigma: Tensor, sigma_next: Tensor, *, noise: NoiseScale, sigma_max: float = 0.99
) -> Tensor:
    """Compute the factor of the loss (or, equally, of the advantage) at a step.

    - ``"none"`` is 1 (Flow-GRPO).
    - ``"std"`` leaves gradients proportional to K. TempFlow-GRPO (arXiv 2508.04324) and GARDO (arXiv 2512.24138) scale
      it to a mean of 1 over the trained steps, see `mean_step_weight`.
    - ``"std/h"`` is the on-policy direction of GRPO-Guard (arXiv 2510.22319), whose RatioNorm multiplies the exponent
      by std and whose reweighting divides the loss by the step length h. With `flexgym.flow.guarded_surrogate`, which
      does both, use ``"none"``.
    - ``"std/K"`` makes all steps equal on policy, exactly and for every noise scale.

    Args:
        name: one of `STEP_WEIGHTS`.
        sigma: noise level before the step, any shape, in (0, 1].
        sigma_next: noise level after the step, of the same shape.
        noise: noise scale of the step.
        sigma_max: see `flexgym.flow.transition`.

    Returns:
        Of the shape of ``sigma``; 0 at steps without noise, except for ``"none"``.

    Raises:
        UnknownNameError: the name is unknown.
    """
    if name not in STEP_WEIGHTS:
        raise unknown_name("step weight", name, STEP_WEIGHTS)
    if name == "none":
        return torch.ones_like(sigma)
    _, std = noise.coefficients(sigma, sigma_next, sigma_max)
    if name == "std":
        return std
    if name == "std/h":
        return std / (sigma - sigma_next)
    return std / velocity_scale(sigma, sigma_next, noise=noise, sigma_max=sigma_max)


def mean_step_weight(name: StepWeight, sigmas: Tensor, *, noise: NoiseScale, steps: Sequence[int]) -> float:
    """Average the weight over the trained steps of a grid, to divide by: learning rates then keep their meaning.

    TempFlow-GRPO's constants are ``1 / mean(std)`` of its trained steps. GARDO's code takes the mean over the rows of a
    batch, which are all at one step, so its weight is always 1.

    Args:
        name: see `step_weight`.
        sigmas: noise levels, ``[T + 1]``.
        noise: noise scale of the steps.
        steps: indices of the trained steps.

    Raises:
        ConfigError: no step is given, or none of them adds noise.
        UnknownNameError: the name is unknown.
    """
    chosen = torch.as_tensor(list(steps), dtype=torch.long)
    weights = step_weight(name, sigmas[chosen], sigmas[chosen + 1], noise=noise, sigma_max=float(sigmas[1]))
    if not len(chosen) or not bool((weights > 0).any()):
        raise ConfigError(
            f"the mean of step weight {name!r} needs a step that adds noise, got steps {list(steps)} with noise scale"
            f" {noise.name!r} (eta={noise.eta})"
        )
    return float(weights.mean())
