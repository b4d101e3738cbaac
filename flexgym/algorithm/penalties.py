"""Penalties that hold a policy near other weights."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from flexgym.algorithm.replay import Replayed
from flexgym.flow import kl_penalty
from flexgym.flow.loss import KLForm

Form = Literal["gaussian", "mean", "velocity", "clean"]


def penalty(replayed: Replayed, name: str, form: Form) -> Tensor:
    """Compute the distance of the policy from other weights at each level of each sample.

    Args:
        replayed: levels, with the mean under these weights.
        name: of the weights.
        form: ``"gaussian"`` is the KL divergence per dimension, ``mean(d^2) / (2 std^2)`` with ``d`` the difference of
            the means; ``"mean"`` is ``mean(d^2)``, ``"velocity"`` the same of the velocities, as in DiffusionNFT and
            AWM, and ``"clean"`` that of the clean latents that both predict, as in V-GRPO.

    Returns:
        ``[L, P, G]``, with gradients to the policy.
    """
    plain: KLForm = "gaussian" if form == "gaussian" else "mean"
    distance = kl_penalty(replayed.policy, replayed.under(name), beta=1.0, form=plain).view(replayed.std.shape)
    if form == "velocity":
        return distance / replayed.velocity_scale.square()
    if form == "clean":
        return distance * (replayed.sigma / replayed.velocity_scale).square()
    return distance
