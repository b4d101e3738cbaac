"""Replaying one trained level with gradients: what an algorithm's loss is computed from."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from flexgym.algorithm.policy import FlowPolicy
from flexgym.algorithm.rollout import Rollout
from flexgym.flow import Gaussian
from flexgym.types import Prompt


@dataclass(frozen=True, eq=False)
class Replayed:
    """One trained noise level of P groups, computed again with gradients.

    With `SamplerSteps` the distribution is that of the next latents, with
    `ForwardProcess` that of the clean ones, whose mean is the model's prediction of them. Fields of
    one value per sample are float32 ``[P, G]``, latents are ``[P, G, ...]``; everything is on the policy's device.

    Attributes:
        mean: of the distribution, with gradients to the trainable parameters, ``[P, G, ...]``.
        std: its standard deviation, ``[P, G]``.
        latents: before the step, ``[P, G, ...]``.
        target: what the rollout arrived at: the next latents, or the clean ones, ``[P, G, ...]``.
        sigma: noise level of ``latents``, ``[P, G]``.
        sigma_next: noise level after the step of the sampler, ``[P, G]``.
        advantage: of each sample, ``[P, G]``.
        old_log_prob: log density of the target under the weights that sampled, ``[P, G]``. None unless needed.
        old_mean: mean under the weights that sampled, ``[P, G, ...]``. None unless needed.
        reference_mean: mean under the reference policy, without gradient, ``[P, G, ...]``. None unless needed.
    """

    mean: Tensor
    std: Tensor
    latents: Tensor
    target: Tensor
    sigma: Tensor
    sigma_next: Tensor
    advantage: Tensor
    old_log_prob: Tensor | None = None
    old_mean: Tensor | None = None
    reference_mean: Tensor | None = None

    @property
    def policy(self) -> Gaussian:
        """The distribution under the current weights, one row per sample: mean ``[P * G, ...]``, std ``[P * G]``."""
        return Gaussian(self.mean.flatten(0, 1), self.std.flatten())

    @property
    def old(self) -> Gaussian:
        """The distribution under the weights that sampled; needs ``old_mean``."""
        assert self.old_mean is not None, "the algorithm must list 'old_mean' in its needs"
        return Gaussian(self.old_mean.flatten(0, 1), self.std.flatten())

    @property
    def reference(self) -> Gaussian:
        """The distribution under the reference policy; needs ``reference_mean``."""
        assert self.reference_mean is not None, "the algorithm must list 'reference_mean' in its needs"
        return Gaussian(self.reference_mean.flatten(0, 1), self.std.flatten())

    @property
    def log_ratio(self) -> Tensor:
        """Log density of the target, current minus old weights, with gradients, ``[P, G]``; needs ``old_log_prob``."""
        assert self.old_log_prob is not None, "the algorithm must list 'old_log_prob' in its needs"
        return self.policy.log_prob(self.target.flatten(0, 1)).view(self.std.shape) - self.old_log_prob


@dataclass(frozen=True)
class Guidance:
    """Guidance scales of a replay; None takes the generator's setting.

    Attributes:
        training: of the weights that train.
        reference: of the reference policy.
    """

    training: float | None = None
    reference: float | None = None


def replay_means(
    policy: FlowPolicy,
    latents_PG: Tensor,
    *,
    prompts: Sequence[Prompt],
    step: int,
    reference: bool,
    guidance: Guidance,
) -> dict[str, Tensor]:
    """Compute one step again: the part of a replay that runs the model.

    Args:
        policy: with the weights that train.
        latents_PG: before the step, ``[P, G, ...]``.
        prompts: P of them.
        step: which one.
        reference: whether to compute the mean under the reference policy as well.
        guidance: guidance scales.

    Returns:
        ``mean`` ``[P, G, ...]`` with gradients, ``std`` ``[P, G]`` and, where asked for, ``reference_mean``.
    """
    gaussian = policy.transition(latents_PG, prompts, step, guidance=guidance.training)
    out = {"mean": gaussian.mean.view(latents_PG.shape), "std": gaussian.std.view(latents_PG.shape[:2])}
    if reference:
        with torch.no_grad(), policy.generator.weights.using("reference"):
            before = policy.transition(latents_PG, prompts, step, guidance=guidance.reference)
        out["reference_mean"] = before.mean.view(latents_PG.shape)
    return out


def assemble(
    policy: FlowPolicy, means: Mapping[str, Tensor], rollout: Rollout, *, index: int, advantages_PG: Tensor
) -> Replayed:
    """Put what the model computed beside what the rollout kept.

    Args:
        policy: that was replayed.
        means: from `replay_means`.
        rollout: of the P groups.
        index: of the level in the window.
        advantages_PG: of the samples, ``[P, G]``.
    """
    device, shape = means["mean"].device, means["std"].shape
    kept: dict[str, Any] = {name: tensor[index].to(device, torch.float32) for name, tensor in rollout.kept.items()}
    levels = policy.levels(rollout.window.steps[index], shape.numel(), device)
    return Replayed(
        **means,
        **kept,
        sigma=levels.sigma.view(shape),
        sigma_next=levels.sigma_next.view(shape),
        advantage=advantages_PG.to(device),
    )


def replay(
    policy: FlowPolicy,
    rollout: Rollout,
    index: int,
    *,
    advantages_PG: Tensor,
    needs: Collection[str] = (),
    guidance: Guidance | None = None,
) -> Replayed:
    """Compute one trained level of a rollout again, with gradients.

    Args:
        policy: with the weights that train.
        rollout: as many groups as one forward of the rollout took, so that the result is equal to the bit.
        index: of the level in the window.
        advantages_PG: of the samples, ``[P, G]``.
        needs: of the algorithm, see `flexgym.algorithm.base.Algorithm.needs`.
        guidance: guidance scales; by default the generator's.
    """
    means = replay_means(
        policy,
        rollout.kept["latents"][index],
        prompts=rollout.prompts,
        step=rollout.window.steps[index],
        reference="reference_mean" in needs,
        guidance=guidance or Guidance(),
    )
    return assemble(policy, means, rollout, index=index, advantages_PG=advantages_PG)
