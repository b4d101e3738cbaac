"""Covariance guidance: regress on the old prediction, moved toward what good samples of the group have in common.

The idea is that of DiffusionART (arXiv 2610.12572), whose equations were not public; those here are our own derivation.
Tilting the distribution of samples by ``exp(r / tau)`` moves the posterior mean at a state by ``Cov(r, x0) / tau`` to
first order, and a group estimates the covariance. Neither a likelihood nor a gradient of the reward is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from flexgym.core.errors import ConfigError, unknown_name


@dataclass(frozen=True, eq=False)
class GuidedLoss:
    """Loss of covariance guidance.

    Attributes:
        loss: ``[..., G]``, to be minimized; 0 in dropped rows.
        dropped: bool ``[..., G]``, rows that have moved as far as allowed and would move on.
    """

    loss: Tensor
    dropped: Tensor


def covariance_direction(rewards: Tensor, clean: Tensor) -> Tensor:
    """Compute the normalized covariance of rewards and clean latents in each group, ``g / rms(g)``.

    ``g = mean over samples of (r - mean r) x0``. With two samples it points from the loser to the winner.

    Args:
        rewards: such as win rates, ``[..., G]``, NaN where unscored.
        clean: clean latents of the samples, ``[..., G, *D]``.

    Returns:
        ``[..., *D]`` without gradient; 0 in groups without differences.

    Raises:
        ConfigError: the leading dimensions of the two differ.
    """
    group = rewards.ndim - 1
    if clean.shape[: rewards.ndim] != rewards.shape or group < 0:
        raise ConfigError(
            f"expected rewards [..., G] and latents [..., G, *D], got {[*rewards.shape]}, {[*clean.shape]}"
        )
    scored = ~rewards.isnan()
    count = scored.sum(-1, keepdim=True).clamp(min=1)
    known = torch.where(scored, rewards, 0.0)
    differ = (known - known.sum(-1, keepdim=True) / count).masked_fill(~scored, 0.0) / count
    # Exactly 0 in a group without differences, where subtracting the mean would leave rounding errors.
    lowest = rewards.masked_fill(~scored, torch.inf).amin(-1, keepdim=True)
    differ = differ * (lowest < rewards.masked_fill(~scored, -torch.inf).amax(-1, keepdim=True))
    covariance = (_expand(differ, clean) * clean.detach()).sum(group)
    size = covariance.flatten(group).square().mean(-1).sqrt()
    return covariance / _expand(torch.where(size > 0, size, 1.0), covariance)


def covariance_guidance_loss(
    predicted: Tensor,
    old_predicted: Tensor,
    direction: Tensor,
    *,
    sigma: Tensor,
    scale: float,
    space: Literal["clean", "velocity"] = "clean",
    radius: float | None = None,
) -> GuidedLoss:
    """Compute the regression on the guided target, ``mean((x0hat - sg(x0hat_old + scale * direction))^2)``.

    Args:
        predicted: clean latents that the policy predicts at states of the group, ``[..., G, *D]``.
        old_predicted: those that the policy of the rollout predicted, of the same shape; no gradient flows into them.
        direction: of the group, ``[..., *D]``, from `covariance_direction`.
        sigma: noise levels of the states, ``[..., G]``.
        scale: length of the step in clean latents (root mean square), at least 0.
        space: ``"velocity"`` divides the loss by ``sigma^2``.
        radius: rows are dropped whose velocity has moved by this root mean square or more, and whose target lies
            further out; moves back toward the target stay. The authors mention 0.02. None drops none.

    Returns:
        Loss and mask, each ``[..., G]``.

    Raises:
        ConfigError: the shapes do not match, or the scale or the radius is negative.
        UnknownNameError: the space is unknown.
    """
    if space not in ("clean", "velocity"):
        raise unknown_name("space of covariance guidance", space, ("clean", "velocity"))
    if not (scale >= 0 and (radius is None or radius >= 0)):
        raise ConfigError(f"scale and radius must be at least 0, got scale={scale} and radius={radius}")
    lead, group = sigma.ndim, sigma.ndim - 1
    towards = direction.unsqueeze(group)
    if predicted.shape != old_predicted.shape or predicted.shape[:lead] != sigma.shape:
        shapes = [list(tensor.shape) for tensor in (predicted, old_predicted, sigma)]
        raise ConfigError(f"expected two predictions [..., G, *D] and sigma [..., G], got {shapes}")
    old = old_predicted.detach()
    error = (predicted - (old + scale * towards.detach())).flatten(lead)
    loss = error.square().mean(-1)
    if space == "velocity":
        loss = loss / sigma.square()
    dropped = torch.zeros_like(sigma, dtype=torch.bool)
    if radius is not None:
        moved = (predicted.detach() - old).flatten(lead)
        outward = (-error.detach() * moved).sum(-1) > 0
        dropped = (moved.square().mean(-1).sqrt() / sigma >= radius) & outward
    return GuidedLoss(loss.masked_fill(dropped, 0.0), dropped)


def _expand(values: Tensor, like: Tensor) -> Tensor:
    """Append dimensions of size 1 until the rank is that of another tensor."""
    return values.reshape(*values.shape, *(1,) * (like.ndim - values.ndim))
