"""Gradient of a reward at clean latents, through the autoencoder; `flexgym.flow.cotangent` brings it to the policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flexgym.core.errors import ConfigError
from flexgym.generators.base import FlowGenerator
from flexgym.generators.conditioning import Conditioning
from flexgym.reward import Reward
from flexgym.types import Prompt


@dataclass(frozen=True, eq=False)
class RewardGradient:
    """Scores of clean latents, and the gradient of their loss.

    Attributes:
        scores: float32 ``[B]``.
        gradient: of the sum of all losses at the latents, ``[B, ...]``; 0 for a sample that reaches the threshold.
    """

    scores: Tensor
    gradient: Tensor


@torch.enable_grad()
def reward_gradient(
    generator: FlowGenerator,
    reward: Reward,
    latents: Tensor,
    *,
    prompts: Sequence[Prompt],
    conditioning: Conditioning | None = None,
    threshold: float | None = None,
    chunk: int = 1,
) -> RewardGradient:
    """Decode and score clean latents, and compute the gradient of their losses.

    The loss of a sample is ``relu(threshold - score)``, or ``-score`` without a threshold. Rows do not depend on one
    another, so every size of the chunks gives the same result, up to the rounding of kernels. No parameter of generator
    or reward gets a gradient.

    Args:
        generator: decodes the latents.
        reward: one with `flexgym.reward.Reward.gradient_scores`.
        latents: clean latents, ``[B, ...]``; no gradient flows beyond them.
        prompts: B of them.
        conditioning: B rows, for generators that know the first frame: its latents are put in their place before
            decoding, and those that they replace have gradient 0. None for other generators.
        threshold: score from which on a sample has no gradient, a brake on reward hacking; None for no limit.
        chunk: rows that are decoded and scored at once; memory grows with it.

    Returns:
        Scores and gradient, on the device of the latents.

    Raises:
        ConfigError: the reward has no gradients, the numbers of rows differ, or the chunk has no row.
    """
    if not len(prompts) == len(latents) > 0 or chunk < 1:
        raise ConfigError(
            f"reward gradient: expected one prompt for each row of latents and chunks of at least one row, got"
            f" {len(prompts)} prompts for {len(latents)} rows and chunk={chunk}"
        )
    parts = []
    with generator.autoencoder.for_gradients():
        for start in range(0, len(latents), chunk):
            rows = slice(start, start + chunk)
            inputs = latents[rows].detach().clone().requires_grad_()
            placed = inputs if conditioning is None else generator.with_first_frame(inputs, conditioning.index(rows))
            scores = reward.gradient_scores(generator.autoencoder.decode_pixels(placed), prompts[rows])
            (gradient,) = torch.autograd.grad(reward_losses(scores, threshold).sum(), inputs)
            parts.append((scores.detach().to(latents.device), gradient))
    scores_B, gradients = zip(*parts, strict=True)
    return RewardGradient(torch.cat(scores_B), torch.cat(gradients))


def reward_losses(scores: Tensor, threshold: float | None) -> Tensor:
    """Compute the loss of each sample: ``relu(threshold - score)``, or ``-score`` without a threshold.

    Args:
        scores: ``[B]``.
        threshold: score from which on the loss is 0.
    """
    return -scores if threshold is None else (threshold - scores).relu()
