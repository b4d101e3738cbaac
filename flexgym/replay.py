"""A denoising step computed again with gradients, and the loss of it: what an update is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flexgym.flow import Gaussian, clipped_surrogate, kl_penalty
from flexgym.policy import FlowPolicy


@dataclass(frozen=True, eq=False)
class ReplayLoss:
    """The loss of one trained step of some groups, and what to log about it.

    Attributes:
        loss: to be minimised; clipped surrogate and divergence from the reference.
        surrogate: the first of the two, without gradient.
        log_ratio: new against old policy, one number per sample, without gradient.
        clipped: share of the samples whose gradient was cut off.
        kl: divergence from the reference before it is weighted; None where it is not computed.
    """

    loss: Tensor
    surrogate: Tensor
    log_ratio: Tensor
    clipped: Tensor
    kl: Tensor | None


def replay_step(policy: FlowPolicy, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """Compute one denoising step of some groups again; gradients flow to what trains.

    Args:
        policy: with the weights that train.
        batch: ``latents`` and ``next_latents`` ``[P, G, ...]``, ``prompts`` (P of them), ``step``, and ``reference``
            (whether the mean of the policy before training is wanted, too).

    Returns:
        ``log_prob`` ``[P, G]``, ``mean`` and ``std`` of the step, and ``reference_mean``.
    """
    gaussian = policy.transition(batch["latents"], batch["prompts"], batch["step"])
    rows = batch["next_latents"].flatten(0, 1).to(gaussian.mean.device, torch.float32)
    out = {
        "log_prob": gaussian.log_prob(rows).view(batch["latents"].shape[:2]),
        "mean": gaussian.mean,
        "std": gaussian.std,
    }
    if batch["reference"]:
        with torch.no_grad(), policy.generator.weights.using("reference"):
            out["reference_mean"] = policy.transition(batch["latents"], batch["prompts"], batch["step"]).mean
    return out


def replay_loss(
    out: Mapping[str, Tensor],
    log_prob_PG: Tensor,
    advantages_PG: Tensor,
    *,
    clip_range: float | tuple[float, float],
    kl_coeff: float,
) -> ReplayLoss:
    """The clipped policy gradient of a replayed step (Flow-GRPO, arXiv 2505.05470).

    Args:
        out: of `replay_step`.
        log_prob_PG: log density of the step under the policy that took it, ``[P, G]``.
        advantages_PG: ``[P, G]``.
        clip_range: of the ratio, see `flexgym.flow.clipped_surrogate`.
        kl_coeff: weight of the divergence from the reference, which counts where ``out`` holds one.
    """
    device = out["log_prob"].device
    log_ratio = (out["log_prob"] - log_prob_PG.to(device)).flatten()
    surrogate = clipped_surrogate(log_ratio, advantages_PG.flatten().to(device), clip_range=clip_range)
    loss, kl = surrogate.loss.mean(), None
    total = loss
    if "reference_mean" in out:
        policy, reference = Gaussian(out["mean"], out["std"]), Gaussian(out["reference_mean"], out["std"])
        penalty = kl_penalty(policy, reference, beta=kl_coeff).mean()
        total, kl = loss + penalty, penalty.detach() / kl_coeff
    return ReplayLoss(total, loss.detach(), log_ratio.detach(), clipped=surrogate.clipped.float().mean(), kl=kl)
