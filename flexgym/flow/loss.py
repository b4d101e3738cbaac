"""Objective of GRPO on one denoising step: a loss per row, which the caller averages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from flexgym.core.errors import ConfigError, unknown_name
from flexgym.flow.transition import Gaussian

KLForm = Literal["gaussian", "mean"]
_KL_FORMS = ("gaussian", "mean")


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
            (low, high).

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
    the difference of two nearly equal densities. The reference implementations also divide the loss by ``|dt|``.

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


def kl_penalty(policy: Gaussian, reference: Gaussian, *, beta: float, form: KLForm = "gaussian") -> Tensor:
    """Compute the KL penalty that keeps the policy near a reference policy.

    Args:
        policy: distribution of the step under the trained policy.
        reference: distribution of the same step under the reference policy; no gradient flows into it.
        beta: weight, at least 0.
        form: ``"gaussian"`` is the KL divergence per dimension, ``mean(d^2) / (2 std^2)`` with ``d`` the difference of
            the means. The std holds the length of the step, as in Pref-GRPO and GenRL. flow_grpo leaves it out
            (``std / sqrt(|dt|)``), so its beta corresponds to ``beta * |dt|`` here. ``"mean"`` is ``mean(d^2)`` alone,
            as in Flow-Factory: it does not spike at steps with little noise, and also works without noise.

    Returns:
        ``[B]``.

    Raises:
        ConfigError: beta is negative, the shapes differ or, for ``"gaussian"``, a row has std 0.
        UnknownNameError: the form is unknown.
    """
    if not beta >= 0:
        raise ConfigError(f"beta must be at least 0, got {beta}")
    anchor = Gaussian(reference.mean.detach(), reference.std)
    if form == "gaussian":
        return beta * policy.kl(anchor)
    if form != "mean":
        raise unknown_name("KL form", form, _KL_FORMS)
    if policy.mean.shape != anchor.mean.shape:
        raise ConfigError(
            f"the two means must have the same shape, got {list(policy.mean.shape)} and {list(anchor.mean.shape)}"
        )
    distance = functional.mse_loss(policy.mean, anchor.mean, reduction="none")
    return beta * distance.reshape(len(distance), -1).mean(1)
