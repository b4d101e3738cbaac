"""One denoising step as a Gaussian: the only module that computes next latents, their density and KL divergences.

Convention in all of FlexGym: ``x_sigma = (1 - sigma) * x0 + sigma * noise``, the model predicts the velocity
``v = noise - x0``, and the noise level sigma decreases from 1 (noise) to 0 (sample). With ``dt = sigma_next - sigma``,
which is negative, and the predicted noise ``x1hat = x + (1 - sigma) * v``, all samplers of flow-matching RL take the
same step::

    mean = x + dt * v - drift * x1hat            next latents = mean + std * z,   z ~ N(0, 1)

Samplers differ only in ``(drift, std)``, and a `NoiseScale` is that pair as a function of the noise levels.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from flexgym.core.errors import ConfigError, unknown_name

Reduction = Literal["mean", "sum"]

_HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)


@dataclass(frozen=True)
class NoiseScale(ABC):
    """Amount of noise that a step adds, and the drift that compensates for it.

    Attributes:
        eta: strength of the noise, at least 0; with 0 the step is the plain Euler step.
    """

    name: ClassVar[str]
    eta: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.eta) and self.eta >= 0):
            raise ConfigError(f"eta of {type(self).__name__} must be a finite number of at least 0, got {self.eta!r}")

    @abstractmethod
    def coefficients(self, sigma: Tensor, sigma_next: Tensor, sigma_max: float) -> tuple[Tensor, Tensor]:
        """Compute drift and standard deviation of the step.

        Args:
            sigma: noise level before the step, ``[B]``, in (0, 1].
            sigma_next: noise level after the step, ``[B]``, below ``sigma``.
            sigma_max: largest sigma in the denominator 1 - sigma (used by `FlowSDE` alone).

        Returns:
            ``(drift, std)``, each ``[B]``.
        """


@dataclass(frozen=True)
class ODE(NoiseScale):
    """Euler step of the probability-flow ODE without noise, bit-identical to that of diffusers."""

    name: ClassVar[str] = "ode"
    eta: float = field(default=0.0, init=False)

    def coefficients(self, sigma: Tensor, sigma_next: Tensor, sigma_max: float) -> tuple[Tensor, Tensor]:
        """Return zeros for both drift and std, see `NoiseScale.coefficients`."""
        return torch.zeros_like(sigma), torch.zeros_like(sigma)


@dataclass(frozen=True)
class DanceSDE(NoiseScale):
    """Constant diffusion ``s_t = eta`` (DanceGRPO, arXiv 2505.07818)."""

    name: ClassVar[str] = "dance"
    eta: float = 0.3

    def diffusion(self, sigma: Tensor, sigma_max: float) -> Tensor:
        """Compute the diffusion coefficient ``s_t`` of the SDE at each noise level, ``[B]``."""
        return torch.full_like(sigma, self.eta)

    def coefficients(self, sigma: Tensor, sigma_next: Tensor, sigma_max: float) -> tuple[Tensor, Tensor]:
        """Compute ``drift = s_t^2 |dt| / (2 sigma)`` and ``std = s_t sqrt(|dt|)``, see `NoiseScale.coefficients`."""
        scale = self.diffusion(sigma, sigma_max)
        length = sigma - sigma_next
        return scale.square() * length / (2.0 * sigma), scale * length.sqrt()


@dataclass(frozen=True)
class FlowSDE(DanceSDE):
    """Diffusion ``s_t = eta * sqrt(sigma / (1 - sigma))`` (Flow-GRPO, arXiv 2505.05470).

    In the denominator, levels above ``sigma_max`` count as ``sigma_max``. Flow-GRPO does so at sigma = 1, with the
    second noise level of the grid. Grids of other schedulers begin just below 1 (0.999999 with UniPC, 0.9997 with
    DPM-Solver++), where ``1 - sigma`` would be far smaller than the step: with the second level, the first step has
    ``|dt| <= 1 - sigma_max`` and therefore ``std <= eta`` on every grid.
    """

    name: ClassVar[str] = "flow"
    eta: float = 0.7

    def diffusion(self, sigma: Tensor, sigma_max: float) -> Tensor:
        """Compute the diffusion coefficient ``s_t`` of the SDE at each noise level, ``[B]``."""
        return self.eta * torch.sqrt(sigma / (1.0 - sigma.clamp(max=sigma_max)))


@dataclass(frozen=True)
class CPS(NoiseScale):
    """Coefficient-preserving sampling (Flow-CPS, arXiv 2509.05952).

    Part of the predicted noise is replaced by fresh noise, so that the latents keep exactly the noise level that the
    model expects: ``(sigma_next - drift)^2 + std^2 = sigma_next^2``. The last step, with sigma_next = 0, adds no noise.
    """

    name: ClassVar[str] = "cps"
    eta: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta > 1:
            raise ConfigError(f"eta of CPS must be in [0, 1] (at 1 all the noise is fresh), got {self.eta!r}")

    def coefficients(self, sigma: Tensor, sigma_next: Tensor, sigma_max: float) -> tuple[Tensor, Tensor]:
        """Replace noise by the angle ``eta * pi / 2``, see `NoiseScale.coefficients`."""
        angle = self.eta * math.pi / 2.0
        return sigma_next * (1.0 - math.cos(angle)), sigma_next * math.sin(angle)


_NOISE_SCALES: dict[str, type[NoiseScale]] = {scale.name: scale for scale in (ODE, FlowSDE, DanceSDE, CPS)}


def noise_scale(name: str, eta: float | None = None) -> NoiseScale:
    """Build a noise scale by name.

    Args:
        name: ``"ode"``, ``"flow"``, ``"dance"`` or ``"cps"``.
        eta: strength of the noise; None for the default of that scale.

    Raises:
        UnknownNameError: the name is unknown.
        ConfigError: the scale does not allow this eta.
    """
    if name not in _NOISE_SCALES:
        raise unknown_name("noise scale", name, _NOISE_SCALES)
    if name == ODE.name:
        if eta:
            raise ConfigError(
                f"noise scale 'ode' has no noise, got eta={eta!r}; leave eta out, or choose 'flow' or 'cps'"
            )
        return ODE()
    build: Callable[..., NoiseScale] = _NOISE_SCALES[name]
    return build() if eta is None else build(eta=eta)


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
