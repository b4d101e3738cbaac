"""One denoising step as a Gaussian: the only module that computes next latents, their density and KL divergences.

Convention in all of FlexGym: ``x_sigma = (1 - sigma) * x0 + sigma * noise``, the model predicts the velocity
``v = noise - x0``, and the noise level sigma decreases from 1 (noise) to 0 (sample). With ``dt = sigma_next - sigma``,
which is negative, and the predicted noise ``x1hat = x + (1 - sigma) * v``, all samplers of flow-matching RL take the
same step::

    mean = x + dt * v - drift * x1hat            next latents = mean + std * z,   z ~ N(0, 1)

Samplers differ only in ``(drift, std)``; `flexgym.flow.NoiseScale` is that pair as a function of the noise levels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from flexgym.core.errors import ConfigError, unknown_name
from flexgym.flow.noise import NoiseScale

Reduction = Literal["mean", "sum"]

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Isotropic Gaussian over latents, with one standard deviation per row.

    Attributes:
        mean: ``[B, ...]``, float32 or wider.
        std: ``[B]``, 0 where the step is deterministic.
    """

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """Draw the next latents ``mean + std * noise``.

        Args:
            noise: standard normal draws, ``[B, ...]``.

        Returns:
            ``[B, ...]``; exactly the mean in rows without noise.
        """
        _check_shape("noise", noise, self.mean)
        return self.mean + per_row(self.std, self.mean) * noise

    def log_prob(self, x: Tensor, reduction: Reduction = "mean") -> Tensor:
        """Compute the log density at ``x``, including all constants.

        Like other libraries, the default averages over the dimensions instead of summing: ratios then do not depend on
        the size of the latents, and clip ranges of 1e-5 to 1e-3 become usable. ``"sum"`` is the density in the strict
        sense. The authors of Flow-CPS leave out ``1 / (2 std^2)``; here every noise scale has its true density.

        Args:
            x: point to evaluate, ``[B, ...]``; no gradient flows into it.
            reduction: reduction over all but the first dimension.

        Returns:
            ``[B]``.

        Raises:
            ConfigError: a row has std 0 and therefore no density.
        """
        _check_shape("x", x, self.mean)
        self._require_noise("log_prob")
        squares = _reduce(functional.mse_loss(self.mean, x.detach().to(self.mean.dtype), reduction="none"), reduction)
        per_dimension = self.std.log() + _HALF_LOG_TWO_PI
        return -squares / (2.0 * self.std.square()) - per_dimension * self._terms(reduction)

    def kl(self, other: Gaussian, reduction: Reduction = "mean") -> Tensor:
        """Compute the Kullback-Leibler divergence ``KL(self || other)`` in closed form.

        Two policies at the same step have the same std, so this is exactly ``|mean - other.mean|^2 / (2 std^2)``.

        Args:
            other: reference distribution of the same shape.
            reduction: reduction over all but the first dimension.

        Returns:
            ``[B]``, in nats (per dimension with ``"mean"``).

        Raises:
            ConfigError: a row has std 0.
        """
        _check_shape("the other mean", other.mean, self.mean)
        self._require_noise("kl")
        other._require_noise("kl")
        squares = _reduce(functional.mse_loss(self.mean, other.mean, reduction="none"), reduction)
        spread = other.std.log() - self.std.log() + 0.5 * ((self.std / other.std).square() - 1.0)
        return squares / (2.0 * other.std.square()) + spread * self._terms(reduction)

    def _terms(self, reduction: Reduction) -> int:
        """Return how often a reduction counts a constant of each dimension."""
        return self.mean[0].numel() if reduction == "sum" and len(self.mean) else 1

    def _require_noise(self, what: str) -> None:
        """Raise an error for rows whose distribution is a point."""
        silent = self.std <= 0
        if bool(silent.any()):
            rows = silent.nonzero().flatten().tolist()[:8]
            raise ConfigError(
                f"{what} needs a positive std, got 0 in rows {rows}: a deterministic step has no density. "
                "Train only steps that add noise (flexgym.flow.require_stochastic checks a window)."
            )


def transition(
    latents: Tensor,
    velocity: Tensor,
    sigma: Tensor,
    *,
    sigma_next: Tensor,
    noise: NoiseScale,
    sigma_max: float = 0.99,
) -> Gaussian:
    """Compute the distribution of the next latents.

    The computation is in float32 (float64 if an input is), whatever the precision of the model. Gradients flow into
    the velocity only. Rows may have different noise levels, so several steps can be replayed in one batch.

    Args:
        latents: ``[B, ...]``.
        velocity: model output at (latents, sigma), guidance included, ``[B, ...]``.
        sigma: noise level before the step, ``[B]`` or a scalar, in (0, 1].
        sigma_next: noise level after the step, ``[B]`` or a scalar, below ``sigma``.
        noise: noise scale of the step.
        sigma_max: largest sigma by whose ``1 - sigma`` `FlowSDE` divides; Flow-GRPO uses ``sigmas[1]`` of the grid.

    Returns:
        Mean ``[B, ...]`` and std ``[B]``.

    Raises:
        ConfigError: shapes do not match, or ``sigma_max`` is outside [0, 1).
    """
    _check_shape("velocity", velocity, latents)
    if not 0.0 <= sigma_max < 1.0:
        raise ConfigError(f"sigma_max must be in [0, 1), got {float(sigma_max)}; use sigmas[1] of the grid")
    dtype = torch.promote_types(torch.promote_types(latents.dtype, velocity.dtype), torch.float32)
    before = _levels("sigma", sigma, latents, dtype=dtype)
    after = _levels("sigma_next", sigma_next, latents, dtype=dtype)
    drift, std = noise.coefficients(before, after, float(sigma_max))
    # x + dt*v - drift*(x + (1-sigma)*v), collected by x and v: two products, bit-identical to x + dt*v without drift.
    on_latents = 1.0 - drift
    on_velocity = (after - before) - drift * (1.0 - before)
    mean = per_row(on_latents, latents) * latents.detach().to(dtype) + per_row(on_velocity, latents) * velocity.to(
        dtype
    )
    return Gaussian(mean, std)


def clean_gaussian(latents: Tensor, velocity: Tensor, sigma: Tensor, *, eta: float) -> Gaussian:
    """Return the density of the clean latents given noised ones (Advantage Weighted Matching, arXiv 2509.25050).

    It is ``x0 ~ N(x - sigma * v, (eta * sigma)^2)``. With the mean reduction its log density is
    ``-mean((v - (noise - x0))^2) / (2 eta^2)`` plus a constant, the flow-matching loss; the paper has ``eta^2 = 1/2``.

    Args:
        latents: ``(1 - sigma) * x0 + sigma * noise``, ``[B, ...]``.
        velocity: model output at (latents, sigma), guidance included, ``[B, ...]``.
        sigma: noise level of each row, ``[B]`` or a scalar, in (0, 1].
        eta: standard deviation in units of sigma, above 0.

    Returns:
        Mean ``[B, ...]`` (the predicted clean latents) and std ``[B]``. Gradients flow into the velocity only.

    Raises:
        ConfigError: shapes do not match.
    """
    mean = predicted_clean(latents.detach(), velocity, sigma)
    return Gaussian(mean, eta * _levels("sigma", sigma, latents, dtype=mean.dtype))


def predicted_clean(latents: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """Compute the clean latents that the model predicts, ``x0hat = x - sigma * v``.

    Args:
        latents: ``[B, ...]``.
        velocity: ``[B, ...]``.
        sigma: noise level of the latents, ``[B]`` or a scalar.

    Returns:
        ``[B, ...]``, float32 or wider.
    """
    _check_shape("velocity", velocity, latents)
    dtype = torch.promote_types(torch.promote_types(latents.dtype, velocity.dtype), torch.float32)
    return latents.to(dtype) - per_row(_levels("sigma", sigma, latents, dtype=dtype), latents) * velocity.to(dtype)


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Reshape one value per row so that it broadcasts over the rows of another tensor.

    Args:
        values: ``[B]``.
        like: ``[B, ...]``.

    Returns:
        ``[B, 1, ...]`` of the same rank as ``like``.
    """
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def _levels(name: str, value: Tensor | float, latents: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Convert noise levels to ``[B]`` on the device of the latents, without gradient."""
    levels = torch.as_tensor(value).detach().to(device=latents.device, dtype=dtype)
    if levels.ndim == 0:
        return levels.expand(len(latents))
    if levels.shape != latents.shape[:1]:
        raise ConfigError(f"{name} must be a scalar or [{len(latents)}], one per row, got {list(levels.shape)}")
    return levels


def _check_shape(name: str, got: Tensor, like: Tensor) -> None:
    if got.shape != like.shape or not like.ndim:
        raise ConfigError(f"{name} must have the shape of the latents, {list(like.shape)}, got {list(got.shape)}")


def _reduce(values: Tensor, reduction: Reduction) -> Tensor:
    """Reduce ``[B, ...]`` to ``[B]`` by mean or sum."""
    rows = values.reshape(len(values), -1)
    if reduction == "mean":
        return rows.mean(1)
    if reduction == "sum":
        return rows.sum(1)
    raise unknown_name("reduction", reduction, ("mean", "sum"))
