"""Policy-gradient losses on denoising steps: one loss per row, which the caller averages."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from flexgym.core.errors import ConfigError
from flexgym.flow.transition import Gaussian


@dataclass(frozen=True, eq=False)
class Surrogate:
    """Clipped policy loss, and quantities to log with it.

    Attributes:
        loss: ``[B]``, to be minimized.
        ratio: ``[B]``, new over old density, without gradient.
        clipped: bool ``[B]``, rows whose gradient is 0 because of the clip.
    """

    loss: Tensor
    ratio: Tensor
    clipped: Tensor


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, *, clip_range: float | tuple[float, float]) -> Surrogate:
    """Compute the loss of PPO, ``max(-A r, -A clip(r, 1 - low, 1 + high))`` with ``r = exp(log_ratio)``.

    This is eq. 7 of arXiv 1707.06347 with the sign reversed.

    Args:
        log_ratio: log density under the new policy minus that under the old policy, ``[B]``.
        advantage: ``[B]``; no gradient flows into it.
        clip_range: maximum distance of the ratio from 1 in the direction that lowers the loss; one number, or
            (low, high). ``(1, math.inf)`` does not clip.

    Returns:
        Loss, ratio and clip mask, each ``[B]``.

    Raises:
        ConfigError: the shapes differ, or the clip range is not positive or its low side is above 1.
    """
    if log_ratio.shape != advantage.shape:
        raise ConfigError(
            f"log_ratio and advantage must have the same shape, got {list(log_ratio.shape)} and {list(advantage.shape)}"
        )
    low, high = clip_range if isinstance(clip_range, tuple) else (clip_range, clip_range)
    if not (0 < low <= 1 and high > 0):
        raise ConfigError(f"clip_range must be positive and its lower side at most 1, got {clip_range}")
    gain = advantage.detach()
    ratio = log_ratio.exp()
    loss = torch.maximum(-gain * ratio, -gain * ratio.clamp(1.0 - low, 1.0 + high))
    detached = ratio.detach()
    clipped = ((detached > 1.0 + high) & (gain > 0)) | ((detached < 1.0 - low) & (gain < 0))
    return Surrogate(loss, detached, clipped)


def guarded_log_ratio(policy: Gaussian, old: Gaussian, x: Tensor) -> Tensor:
    """Compute the log ratio of GRPO-Guard (RatioNorm, arXiv 2510.22319), with mean 0 and one scale at all noise levels.

    The log ratio of a step has mean ``-b``, ``b = mean(d^2) / (2 s^2)``, where ``d`` is the change of the mean and
    ``s`` the std, and its spread is proportional to ``1/s``. RatioNorm is ``s * (log_ratio + b)``. Expanding the
    squares leaves ``mean(z * d)`` with the rollout noise ``z = (x - old.mean) / s``, which is computed here without
    the difference of two nearly equal densities. The loss also has a division by ``|dt|``, see `guarded_surrogate`.

    Args:
        policy: distribution of the step under the new policy.
        old: distribution of the same step under the policy of the rollout.
        x: next latents of the rollout, ``[B, ...]``.

    Returns:
        ``[B]``, for `clipped_surrogate`; exactly 0 if the policy has not changed.

    Raises:
        ConfigError: a row has std 0, or the shapes differ.
    """
    if not policy.mean.shape == old.mean.shape == x.shape:
        shapes = [list(tensor.shape) for tensor in (policy.mean, old.mean, x)]
        raise ConfigError(f"policy mean, old mean and x must have the same shape, got {shapes}")
    if bool((old.std <= 0).any()):
        raise ConfigError("guarded_log_ratio needs a positive std in every row: train only steps that add noise")
    start = old.mean.detach()
    products = (x.detach().to(start.dtype) - start) * (policy.mean - start)
    return products.reshape(len(x), -1).mean(1) / old.std


def guarded_surrogate(
    policy: Gaussian,
    old: Gaussian,
    x: Tensor,
    *,
    advantage: Tensor,
    step_length: Tensor,
    clip_range: float | tuple[float, float],
) -> Surrogate:
    """Compute the loss of GRPO-Guard (arXiv 2510.22319), ``max(-A r, -A clip(r)) / h`` with the ratio of RatioNorm.

    RatioNorm leaves gradients proportional to K (see `flexgym.flow.step_weight`); the division by the step length h
    makes steps nearly equal. Clip ranges do not transfer from the plain ratio, whose logarithm is ``1 / std`` as large.

    Args:
        policy: distribution of the step under the new policy.
        old: distribution of the same step under the policy of the rollout.
        x: next latents of the rollout, ``[B, ...]``.
        advantage: ``[B]``; no gradient flows into it.
        step_length: ``h = sigma - sigma_next``, ``[B]``, above 0.
        clip_range: see `clipped_surrogate`.

    Returns:
        Loss (divided by h), ratio and clip mask, each ``[B]``.

    Raises:
        ConfigError: a row has std 0 or no length, the shapes differ, or the clip range is invalid.
    """
    if not bool((step_length > 0).all()):
        raise ConfigError(
            f"step_length must be sigma - sigma_next, above 0 in every row, got a minimum of {float(step_length.min())}"
        )
    surrogate = clipped_surrogate(guarded_log_ratio(policy, old, x), advantage, clip_range=clip_range)
    return replace(surrogate, loss=surrogate.loss / step_length)


def masked_surrogate(log_ratio: Tensor, advantage: Tensor, divergence: Tensor, *, threshold: float) -> Surrogate:
    """Compute the loss of Flow-DPPO (arXiv 2606.11025): ``-A r`` without a clip, or 0 in rows that have moved too far.

    A row is dropped when its divergence from the old policy reaches the threshold and its ratio has moved in the
    direction that its advantage rewards (A > 0 and r > 1, or A < 0 and r < 1). Rows that return stay.

    Args:
        log_ratio: log density under the new policy minus that under the old policy, ``[B]``.
        advantage: ``[B]``; no gradient flows into it.
        divergence: ``policy.kl(old)``, ``[B]``; no gradient flows into it.
        threshold: divergence from which rows are dropped, at least 0; the authors use 1e-5 per dimension.

    Returns:
        Loss, ratio and the mask of dropped rows (as ``clipped``), each ``[B]``.

    Raises:
        ConfigError: the shapes differ, or the threshold is negative.
    """
    if not log_ratio.shape == advantage.shape == divergence.shape:
        shapes = [list(tensor.shape) for tensor in (log_ratio, advantage, divergence)]
        raise ConfigError(f"log_ratio, advantage and divergence must have the same shape, got {shapes}")
    if not threshold >= 0:
        raise ConfigError(f"threshold of the divergence must be at least 0, got {threshold}")
    gain, detached = advantage.detach(), log_ratio.detach().exp()
    outward = ((gain > 0) & (detached > 1.0)) | ((gain < 0) & (detached < 1.0))
    dropped = (divergence.detach() >= threshold) & outward
    ratio = log_ratio.masked_fill(dropped, 0.0).exp()  # finite gradients even where a dropped ratio overflows
    return Surrogate((-gain * ratio).masked_fill(dropped, 0.0), detached, dropped)


def sequence_log_ratio(log_ratio: Tensor, *, dim: int = 0) -> Tensor:
    """Average the log ratios of a sample's steps, so that they share one ratio and one clip (GSPO, arXiv 2507.18071).

    V-GRPO (arXiv 2604.23380) does the same with pairs of noise and noise level: the mean is inside the exponential.

    Args:
        log_ratio: of each step, such as ``[L, P, G]``.
        dim: dimension of the steps.

    Returns:
        Without that dimension, such as ``[P, G]``, for `clipped_surrogate`.
    """
    return log_ratio.mean(dim)


def sequence_weight(old_log_prob: Tensor, behavior_log_prob: Tensor, *, dim: int = 0) -> Tensor:
    """Compute the weight of a replayed trajectory, ``exp(mean over steps of (old - behavior))``, without gradient.

    OP-GRPO (arXiv 2604.04142) trains on trajectories of earlier policies with a correction for the whole sequence that
    leaves the clip intact: the loss is ``weight * max(-A r, -A clip(r))`` with r the ratio of new to old policy. Its
    equations were not public; this form is our own derivation. The weight is 1 for trajectories of the old policy.

    Args:
        old_log_prob: log densities of the steps under the policy before the update, such as ``[L, P, G]``.
        behavior_log_prob: those under the policy that sampled the trajectory, of the same shape.
        dim: dimension of the steps.

    Returns:
        Without that dimension, such as ``[P, G]``.

    Raises:
        ConfigError: the shapes differ.
    """
    if old_log_prob.shape != behavior_log_prob.shape:
        raise ConfigError(
            "old_log_prob and behavior_log_prob must have the same shape, got"
            f" {list(old_log_prob.shape)} and {list(behavior_log_prob.shape)}"
        )
    return (old_log_prob - behavior_log_prob).detach().mean(dim).exp()
