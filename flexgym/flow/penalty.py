"""Penalties that keep a policy near another one, in the space of the step, the velocity or the clean latents."""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

from flexgym.core.errors import ConfigError, unknown_name
from flexgym.flow.transition import Gaussian

KLForm = Literal["gaussian", "mean"]
Space = Literal["gaussian", "mean", "velocity", "clean"]
SPACES = ("gaussian", "mean", "velocity", "clean")
"""Names of the distances that `policy_distance` knows."""


def policy_distance(
    policy: Gaussian,
    other: Gaussian,
    *,
    space: Space = "gaussian",
    velocity_scale: Tensor | None = None,
    sigma: Tensor | None = None,
) -> Tensor:
    """Compute the distance of a step's distribution from that under another policy: reference, EMA or old.

    With ``d`` the difference of the means and ``K`` the scale of the velocity in the mean:

    - ``"gaussian"`` is the KL divergence per dimension, ``mean(d^2) / (2 std^2)``.
    - ``"mean"`` is ``mean(d^2)``, which also works without noise.
    - ``"velocity"`` is ``mean((v - v_other)^2) = mean(d^2) / K^2``, the same at every noise level and for every sampler
      (AWM, DiffusionNFT).
    - ``"clean"`` is the distance of the predicted clean latents, ``sigma^2 mean(d^2) / K^2`` (V-GRPO). For
      `flexgym.flow.clean_gaussian`, where K is sigma, it equals ``"mean"``.

    Args:
        policy: distribution of the step under the trained policy.
        other: distribution of the same step under the other policy; no gradient flows into it.
        space: one of `SPACES`.
        velocity_scale: K, ``[B]``, from `flexgym.flow.velocity_scale`; for `flexgym.flow.clean_gaussian` it is sigma.
            Needed for ``"velocity"`` and ``"clean"``.
        sigma: noise level before the step, ``[B]``. Needed for ``"clean"``.

    Returns:
        ``[B]``.

    Raises:
        ConfigError: the shapes differ, a needed scale is missing or, for ``"gaussian"``, a row has std 0.
        UnknownNameError: the space is unknown.
    """
    if space not in SPACES:
        raise unknown_name("penalty space", space, SPACES)
    anchor = Gaussian(other.mean.detach(), other.std)
    if space == "gaussian":
        return policy.kl(anchor)
    if policy.mean.shape != anchor.mean.shape:
        raise ConfigError(
            f"the two means must have the same shape, got {list(policy.mean.shape)} and {list(anchor.mean.shape)}"
        )
    squares = functional.mse_loss(policy.mean, anchor.mean, reduction="none")
    distance = squares.reshape(len(squares), -1).mean(1)
    if space == "mean":
        return distance
    distance = distance / _given("velocity_scale", velocity_scale, space).square()
    return distance if space == "velocity" else distance * _given("sigma", sigma, space).square()


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
    if form not in ("gaussian", "mean"):
        raise unknown_name("KL form", form, ("gaussian", "mean"))
    return beta * policy_distance(policy, reference, space=form)


def distillation_loss(student: Gaussian, teacher: Gaussian, *, form: Literal["sde", "ode"]) -> Tensor:
    """Compute the loss of on-policy distillation on a step that the student visited (DiffusionOPD, arXiv 2605.15055).

    Args:
        student: distribution of the step under the trained policy.
        teacher: distribution of the same step under the teacher; no gradient flows into it.
        form: ``"sde"`` for a student that samples with noise, ``mean(d^2) / (2 std^2)`` with ``d`` the difference of
            the means, which is the KL divergence; ``"ode"`` for one that samples without, ``mean(d^2) / 2``.

    Returns:
        ``[B]``.

    Raises:
        ConfigError: the shapes differ or, for ``"sde"``, a row has std 0.
        UnknownNameError: the form is unknown.
    """
    if form not in ("sde", "ode"):
        raise unknown_name("form of distillation", form, ("sde", "ode"))
    return policy_distance(student, teacher) if form == "sde" else 0.5 * policy_distance(student, teacher, space="mean")


def _given(name: str, value: Tensor | None, space: str) -> Tensor:
    if value is None:
        raise ConfigError(f"a distance in space {space!r} needs {name}, one value per row")
    return value.detach()
