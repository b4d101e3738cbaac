"""Losses on preferences: pairs (Flow-DPO), groups (DGPO) and centered rewards (CRD).

All compare errors ``q = mean((v - (noise - x0))^2)`` of finished samples, see `flexgym.flow.matching_error`. Samples
that are compared must share noise and noise level.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from flexgym.core.errors import ConfigError, unknown_name
from flexgym.flow.shaping import optimality

CenteredForm = Literal["mse", "bce"]
Centering = Literal["uniform", "softmax", "signed"]
_FORMS = ("mse", "bce")
CENTERINGS = ("uniform", "softmax", "signed")
"""Names of the weights that `centered_loss` knows."""


@dataclass(frozen=True, eq=False)
class PairLoss:
    """Loss of Flow-DPO on pairs, and quantities to log with it, which have no gradient.

    Both errors can grow while the margin between them does, so watch the two changes apart.

    Attributes:
        loss: ``[*N]``, to be minimized.
        logit: ``[*N]``, margin in favor of the chosen sample.
        accurate: bool ``[*N]``, pairs that the policy orders correctly against the reference (implicit accuracy).
        chosen_change: ``[*N]``, error of the chosen sample minus that under the reference.
        rejected_change: ``[*N]``, the same for the rejected sample.
    """

    loss: Tensor
    logit: Tensor
    accurate: Tensor
    chosen_change: Tensor
    rejected_change: Tensor


def flow_dpo_loss(
    chosen: Tensor, rejected: Tensor, *, chosen_reference: Tensor, rejected_reference: Tensor, beta: float
) -> PairLoss:
    """Compute Diffusion-DPO (arXiv 2311.12908) on flow-matching errors.

    The loss is ``-log sigmoid(-beta/2 ((q_w - q_w_ref) - (q_l - q_l_ref)))`` with w the chosen sample (winner) and l
    the rejected one. Useful values of beta, 100 to 5000, depend on the scale of the errors.

    Args:
        chosen: errors q of the chosen samples under the policy, ``[*N]``.
        rejected: errors of the rejected samples, ``[*N]``.
        chosen_reference: errors of the chosen samples under the reference; no gradient flows into them.
        rejected_reference: errors of the rejected samples under the reference; no gradient flows into them.
        beta: strength of the preference, above 0.

    Returns:
        Loss per pair, and quantities to log.

    Raises:
        ConfigError: the shapes differ, or beta is not positive.
    """
    _check_shapes(
        chosen=chosen, rejected=rejected, chosen_reference=chosen_reference, rejected_reference=rejected_reference
    )
    _check_positive("beta of Flow-DPO", beta)
    chosen_change = chosen - chosen_reference.detach()
    rejected_change = rejected - rejected_reference.detach()
    logit = -0.5 * beta * (chosen_change - rejected_change)
    loss, margin = -functional.logsigmoid(logit), logit.detach()
    return PairLoss(loss, margin, margin > 0, chosen_change.detach(), rejected_change.detach())


@dataclass(frozen=True, eq=False)
class GroupLoss:
    """Loss of DGPO, and quantities to log with it, which have no gradient.

    Attributes:
        loss: ``[..., G]``, to be minimized.
        weight: ``[..., 1]``, weight of each group; 1/2 before the policy has moved, lower once it prefers good samples.
        clipped: bool ``[..., G]``, rows whose gradient is 0 because of the clip.
    """

    loss: Tensor
    weight: Tensor
    clipped: Tensor


def dgpo_loss(
    error: Tensor,
    reference_error: Tensor,
    *,
    advantage: Tensor,
    beta: float,
    old_error: Tensor | None = None,
    clip_range: float = 0.05,
) -> GroupLoss:
    """Compute Direct Group Preference Optimization (arXiv 2510.08425), ``W A q`` for each sample.

    The weight of a group is ``W = sg sigmoid(sum over the group of A beta (q - q_ref) / G)``. The mean of the loss has
    ``1 / beta`` of the gradient of the mean over groups of ``-log sigmoid(-sum)``.

    Args:
        error: errors q under the policy, ``[..., G]``; the last dimension is the group.
        reference_error: errors under the reference or its EMA, ``[..., G]``; no gradient flows into them.
        advantage: ``[..., G]``; no gradient flows into it.
        beta: strength of the preference, above 0.
        old_error: errors under the old policy, to clip by the ratio ``exp(q_old - q)``; None for no clip.
        clip_range: distance of that ratio from 1, in the direction of the advantage, beyond which a row is clipped.

    Returns:
        Loss per sample, and quantities to log.

    Raises:
        ConfigError: the shapes differ, or beta or the clip range is not positive.
    """
    _check_shapes(error=error, reference_error=reference_error, advantage=advantage)
    _check_positive("beta of DGPO", beta)
    _check_positive("clip_range of DGPO", clip_range)
    gain, detached = advantage.detach(), error.detach()
    clipped = torch.zeros_like(gain, dtype=torch.bool)
    if old_error is not None:
        _check_shapes(error=error, old_error=old_error)
        ratio = (old_error.detach() - detached).exp()
        clipped = ((gain > 0) & (ratio > 1.0 + clip_range)) | ((gain < 0) & (ratio < 1.0 - clip_range))
    preference = gain * beta * (detached - reference_error.detach()) / error.shape[-1]
    weight = preference.sum(-1, keepdim=True).sigmoid()
    return GroupLoss(weight * gain * torch.where(clipped, detached, error), weight, clipped)


def centered_loss(
    implicit_reward: Tensor,
    advantage: Tensor,
    *,
    beta: float,
    clip: float = 5.0,
    form: CenteredForm = "mse",
    centering: Centering = "uniform",
    temperature: float = 0.5,
    neutral: float = 0.5,
) -> Tensor:
    """Compute Centered Reward Distillation (arXiv 2603.14128): match the policy's implicit rewards to the real ones.

    Implicit rewards are ``R = l_old - l``, the decrease of `flexgym.flow.adaptive_error` of the velocity; real ones are
    ``r`` in [0, 1], the `flexgym.flow.optimality` of the advantages. Both are centered over the last dimension, and
    the loss is ``clip / beta * (beta R_c - r_c)^2``, or the cross-entropy of ``sigmoid(beta R_c)`` with
    ``sigmoid(r_c)``. The center of the implicit rewards has no gradient.

    ``"uniform"`` centers by the mean. The other two average the losses of two centers, one near the good and one near
    the bad samples: ``"softmax"`` weights by ``softmax(+-r / temperature)``, and ``"signed"`` by ``softmax(r)`` over
    the samples above and those below the neutral r, uniformly where there are none. Flow-Factory's "hard" mode compares
    r with 0 instead, so that no sample is below.

    Args:
        implicit_reward: ``[..., N]``; samples to be centered together are in the last dimension.
        advantage: ``[..., N]``; no gradient flows into it.
        beta: strength of the implicit reward, above 0.
        clip: advantage that counts as certainly good.
        form: ``"mse"`` or ``"bce"``.
        centering: one of `CENTERINGS`.
        temperature: of ``"softmax"``, above 0.
        neutral: r between good and bad, for ``"signed"``.

    Returns:
        ``[..., N]``.

    Raises:
        ConfigError: the shapes differ, or beta, clip or temperature is not positive.
        UnknownNameError: the form or the centering is unknown.
    """
    _check_shapes(implicit_reward=implicit_reward, advantage=advantage)
    _check_positive("beta of CRD", beta)
    if form not in _FORMS:
        raise unknown_name("form of the centered loss", form, _FORMS)
    target = optimality(advantage.detach(), clip=clip)
    losses = []
    for weights in _centers(target, centering, temperature=temperature, neutral=neutral):
        center = (implicit_reward.detach() * weights).sum(-1, keepdim=True)
        own = beta * (implicit_reward - center)
        goal = target - (target * weights).sum(-1, keepdim=True)
        if form == "mse":
            losses.append((own - goal).square())
        else:
            losses.append(functional.binary_cross_entropy_with_logits(own, goal.sigmoid(), reduction="none"))
    return torch.stack(losses).mean(0) * (clip / beta)


def _centers(target: Tensor, centering: Centering, *, temperature: float, neutral: float) -> list[Tensor]:
    """Return the weights of each center, ``[..., N]`` with sum 1 over the last dimension."""
    uniform = torch.full_like(target, 1.0 / target.shape[-1])
    if centering == "uniform":
        return [uniform]
    if centering == "softmax":
        _check_positive("temperature of CRD", temperature)
        return [torch.softmax(side * target / temperature, dim=-1) for side in (1, -1)]
    if centering != "signed":
        raise unknown_name("centering", centering, CENTERINGS)
    masks = (target > neutral, target < neutral)
    return [
        torch.where(mask.any(-1, keepdim=True), torch.softmax(target.masked_fill(~mask, -torch.inf), dim=-1), uniform)
        for mask in masks
    ]


def _check_shapes(**tensors: Tensor) -> None:
    if len({tensor.shape for tensor in tensors.values()}) > 1:
        shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
        raise ConfigError(f"expected tensors of one shape, got {shapes}")


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ConfigError(f"{name} must be positive, got {value}")
