"""The objective of GRPO on one denoising step: a loss per row, left to the caller to average."""

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
    """The clipped policy loss and what to log about it.

    Attributes:
        loss: ``[B]``, to be minimised.
        ratio: ``[B]``, new over old density, without gradient.
        clipped: bool ``[B]``, rows whose gradient the clip has cut off.
    """

    loss: Tensor
    ratio: Tensor
    clipped: Tensor


def clipped_surrogate(log_ratio: Tensor, advantage: Tensor, *, clip_range: float | tuple[float, float]) -> Surrogate:
    """The loss of PPO, ``max(-A r, -A clip(r, 1 - low, 1 + high))`` with ``r = exp(log_ratio)``.

    It is eq. 7 of arXiv 1707.06347 with the sign turned.

    Args:
        log_ratio: log density of the new policy less that of the old, ``[B]``.
        advantage: ``[B]``; no gradient flows into it.
        clip_range: how far the ratio may leave 1 in the direction that pays; one number, or (low, high).

    Returns:
        Loss, ratio and clip mask, each ``[B]``.

    Raises:
        ConfigError: shapes that differ, or a clip range that is not positive (or low above 1).
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
    """The log ratio of GRPO-Guard (RatioNorm, arXiv 2510.22319): mean 0 and of one scale at every noise level.

    The log ratio of a step is ``-b`` on average, ``b = mean(d^2) / (2 s^2)`` with ``d`` the move of the mean and ``s``
    the std, and its spread goes with ``1/s``. RatioNorm is ``s * (log_ratio + b)``. Expanding the squares leaves
    ``mean(z * d)`` with the rollout noise ``z = (x - old.mean) / s``, which is computed here in one pass and without
    taking the difference of two near-equal densities. The reference implementations also divide the loss by ``|dt|``.

    Args:
        policy: the step under the new policy.
        old: the same step under the policy of the rollout.
        x: next latents of the rollout, ``[B, ...]``.

    Returns:
        ``[B]``, for `clipped_surrogate`; exactly 0 when the policy has not moved.

    Raises:
        ConfigError: a row has std 0, or shapes that differ.
    """
    if not policy.mean.shape == old.mean.shape == x.shape:
        shapes = [list(tensor.shape) for tensor in (policy.mean, old.mean, x)]
        raise ConfigError(f"policy mean, old mean and x must have the same shape, got {shapes}")
    if bool((old.std <= 0).any()):
        raise ConfigError("guarded_log_ratio needs a positive std in every row; train only steps that add noise")
    start = old.mean.detach()
    products = (x.detach().to(start.dtype) - start) * (policy.mean - start)
    return products.reshape(len(x), -1).mean(1) / old.std


def kl_penalty(policy: Gaussian, reference: Gaussian, *, beta: float, form: KLForm = "gaussian") -> Tensor:
    """What is added to the loss to stay near a reference policy.

    Args:
        policy: the step under the trained policy.
        reference: the same step under the reference; no gradient flows into it.
        beta: weight, at least 0.
        form: ``"gaussian"`` is the divergence per dimension, ``mean(d^2) / (2 std^2)`` with ``d`` the difference of
            the means. ``"mean"`` is ``mean(d^2)`` alone, as in Flow-Factory: it does not spike at steps of little
            noise, and works without noise too.

    Returns:
        ``[B]``.

    Raises:
        ConfigError: a negative beta, shapes that differ or, for ``"gaussian"``, a row with std 0.
        UnknownNameError: no such form.
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
