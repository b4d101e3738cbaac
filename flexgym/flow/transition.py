"""One denoising step as a Gaussian: the only place where next latents, their density and their divergence are computed.

Convention of all of FlexGym: ``x_sigma = (1 - sigma) * x0 + sigma * noise``, the model predicts the velocity
``v = noise - x0``, and sigma falls from 1 (noise) to 0 (sample). With ``dt = sigma_next - sigma < 0`` and the predicted
noise ``x1hat = x + (1 - sigma) * v``, every sampler of the flow-matching RL family is the same step::

    mean = x + dt * v - drift * x1hat            next latents = mean + std * z,   z ~ N(0, 1)

Samplers differ in ``(drift, std)`` only, and a `NoiseScale` is that pair as a function of the noise levels.
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
# Flow-SDE divides by 1 - sigma. Some schedulers start at 1 - 1e-6 instead of 1, which must count as 1 here.
_ALMOST_ONE = 1.0 - 1e-5


@dataclass(frozen=True)
class NoiseScale(ABC):
    """How much noise a step adds, and the drift that pays for it.

    Attributes:
        eta: noise level, at least 0; with 0 the step is the plain Euler step.
    """

    name: ClassVar[str]
    eta: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.eta) and self.eta >= 0):
            raise ConfigError(f"eta of {type(self).__name__} must be a finite number of at least 0, got {self.eta!r}")

    @abstractmethod
    def coefficients(self, sigma: Tensor, sigma_next: Tensor, sigma_max: float) -> tuple[Tensor, Tensor]:
        """The pair that defines the step.

        Args:
            sigma: noise level before the step, ``[B]``, in (0, 1].
            sigma_next: noise level after it, ``[B]``, below ``sigma``.
            sigma_max: what stands for sigma where 1 - sigma would be 0 (used by `FlowSDE` alone).

        Returns:
            ``(drift, std)``, each ``[B]``.
        """


@dataclass(frozen=True)
class ODE(NoiseScale):
    """No noise: the Euler step of the probability-flow ODE, equal to that of diffusers to the last bit."""

    name: ClassVar[str] = "ode"
    eta: float = field(default=0.0, init=False)

    def coefficients(self, sigma: Tensor, sigma_next: Tensor, sigma_max: float) -> tuple[Tensor, Tensor]:
        """See `NoiseScale.coefficients`; both are 0."""
        return torch.zeros_like(sigma), torch.zeros_like(sigma)


@dataclass(frozen=True)
class DanceSDE(NoiseScale):
    """Constant diffusion ``s_t = eta`` (DanceGRPO, arXiv 2505.07818)."""

    name: ClassVar[str] = "dance"
    eta: float = 0.3

    def diffusion(self, sigma: Tensor, sigma_max: float) -> Tensor:
        """The diffusion coefficient ``s_t`` of the SDE at each noise level, ``[B]``."""
        return torch.full_like(sigma, self.eta)

    def coefficients(self, sigma: Tensor, sigma_next: Tensor, sigma_max: float) -> tuple[Tensor, Tensor]:
        """See `NoiseScale.coefficients`; ``drift = s_t^2 |dt| / (2 sigma)`` and ``std = s_t sqrt(|dt|)``."""
        scale = self.diffusion(sigma, sigma_max)
        length = sigma - sigma_next
        return scale.square() * length / (2.0 * sigma), scale * length.sqrt()


@dataclass(frozen=True)
class FlowSDE(DanceSDE):
    """Diffusion ``s_t = eta * sqrt(sigma / (1 - sigma))`` (Flow-GRPO, arXiv 2505.05470).

    At sigma = 1 the denominator uses ``sigma_max`` instead; Flow-GRPO takes the second noise level of the grid.
    """

    name: ClassVar[str] = "flow"
    eta: float = 0.7

    def diffusion(self, sigma: Tensor, sigma_max: float) -> Tensor:
        """The diffusion coefficient ``s_t`` of the SDE at each noise level, ``[B]``."""
        below_one = torch.where(sigma > _ALMOST_ONE, torch.full_like(sigma, sigma_max), sigma)
        return self.eta * torch.sqrt(sigma / (1.0 - below_one))


@dataclass(frozen=True)
class CPS(NoiseScale):
    """Coefficient-preserving sampling (Flow-CPS, arXiv 2509.05952).

    Part of the predicted noise is swapped for fresh noise, so that the latents keep exactly the noise level that the
    model expects: ``(sigma_next - drift)^2 + std^2 = sigma_next^2``. The last step, with sigma_next = 0, adds no noise.
    """

    name: ClassVar[str] = "cps"
    eta: float = 0.8

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eta > 1:
            raise ConfigError(f"eta of CPS must be in [0, 1] (at 1 all the noise is fresh), got {self.eta!r}")

    def coefficients(self, sigma: Tensor, sigma_next: Tensor, sigma_max: float) -> tuple[Tensor, Tensor]:
        """See `NoiseScale.coefficients`; the swapped share is the angle ``eta * pi / 2``."""
        angle = self.eta * math.pi / 2.0
        return sigma_next * (1.0 - math.cos(angle)), sigma_next * math.sin(angle)


_NOISE_SCALES: dict[str, type[NoiseScale]] = {scale.name: scale for scale in (ODE, FlowSDE, DanceSDE, CPS)}


def noise_scale(name: str, eta: float | None = None) -> NoiseScale:
    """A noise scale by name.

    Args:
        name: ``"ode"``, ``"flow"``, ``"dance"`` or ``"cps"``.
        eta: noise level; None takes the default of that scale.

    Returns:
        The noise scale.

    Raises:
        UnknownNameError: no such name.
        ConfigError: an eta that the scale cannot have.
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
    """An isotropic Gaussian over latents, one standard deviation per row.

    Attributes:
        mean: ``[B, ...]``, float32 or wider.
        std: ``[B]``, 0 where the step is deterministic.
    """

    mean: Tensor
    std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """The next latents ``mean + std * noise``.

        Args:
            noise: standard normal draws, ``[B, ...]``.

        Returns:
            ``[B, ...]``; exactly the mean in rows without noise.
        """
        _check_shape("noise", noise, self.mean)
        return self.mean + per_row(self.std, self.mean) * noise

    def log_prob(self, x: Tensor, reduction: Reduction = "mean") -> Tensor:
        """The log density at ``x``, all constants included.

        Peers average over the dimensions instead of adding: ratios then do not depend on the size of the latents, and
        clip ranges of 1e-5 to 1e-3 become usable. ``"sum"`` is the density in the strict sense. The authors of Flow-CPS
        leave out ``1 / (2 std^2)``; here every noise scale has its true density.

        Args:
            x: where to evaluate, ``[B, ...]``; no gradient flows into it.
            reduction: over all but the first dimension.

        Returns:
            ``[B]``.

        Raises:
            ConfigError: a row has std 0, so there is no density.
        """
        _check_shape("x", x, self.mean)
        self._require_noise("log_prob")
        squares = _reduce(functional.mse_loss(self.mean, x.detach().to(self.mean.dtype), reduction="none"), reduction)
        per_dimension = self.std.log() + _HALF_LOG_TWO_PI
        return -squares / (2.0 * self.std.square()) - per_dimension * self._terms(reduction)

    def kl(self, other: Gaussian, reduction: Reduction = "mean") -> Tensor:
        """The Kullback-Leibler divergence ``KL(self || other)`` in closed form.

        Two policies at the same step have the same std, and this is then ``|mean - other.mean|^2 / (2 std^2)`` exactly.

        Args:
            other: the reference, same shapes.
            reduction: over all but the first dimension.

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
        """How often a per-dimension constant counts under a reduction."""
        return self.mean[0].numel() if reduction == "sum" and len(self.mean) else 1

    def _require_noise(self, what: str) -> None:
        """Refuses rows whose distribution is a point."""
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
    """The distribution of the next latents, by the one kernel of this module.

    Computed in float32 (float64 when an input is), whatever precision the model ran in. Gradients flow into the
    velocity only. Rows may stand at different noise levels, so several steps can be replayed in one batch.

    Args:
        latents: ``[B, ...]``.
        velocity: the model output at (latents, sigma), guidance included, ``[B, ...]``.
        sigma: noise level before the step, ``[B]`` or a scalar, in (0, 1].
        sigma_next: noise level after it, ``[B]`` or a scalar, below ``sigma``.
        noise: the noise scale.
        sigma_max: stands for sigma where `FlowSDE` would divide by 0; Flow-GRPO takes ``sigmas[1]`` of the grid.

    Returns:
        Mean ``[B, ...]`` and std ``[B]``.

    Raises:
        ConfigError: shapes that do not fit, or ``sigma_max`` outside [0, 1).
    """
    _check_shape("velocity", velocity, latents)
    if not 0.0 <= sigma_max < 1.0:
        raise ConfigError(f"sigma_max must be in [0, 1), got {float(sigma_max)}; take sigmas[1] of the grid")
    dtype = torch.promote_types(torch.promote_types(latents.dtype, velocity.dtype), torch.float32)
    before = _levels("sigma", sigma, latents, dtype=dtype)
    after = _levels("sigma_next", sigma_next, latents, dtype=dtype)
    drift, std = noise.coefficients(before, after, float(sigma_max))
    # x + dt*v - drift*(x + (1-sigma)*v), gathered by x and v: two products, and bit-equal to x + dt*v without drift.
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
        ConfigError: shapes that do not fit.
    """
    mean = predicted_clean(latents.detach(), velocity, sigma)
    return Gaussian(mean, eta * _levels("sigma", sigma, latents, dtype=mean.dtype))


def predicted_clean(latents: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """The clean latents that the model expects at the end, ``x0hat = x - sigma * v``.

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
    """One value per row, viewed so that it broadcasts over the rows of another tensor.

    Args:
        values: ``[B]``.
        like: ``[B, ...]``.

    Returns:
        ``[B, 1, ...]`` of the same rank as ``like``.
    """
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def _levels(name: str, value: Tensor | float, latents: Tensor, *, dtype: torch.dtype) -> Tensor:
    """Noise levels as ``[B]`` beside the latents, outside of the graph."""
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
    """``[B, ...]`` to ``[B]``."""
    rows = values.reshape(len(values), -1)
    if reduction == "mean":
        return rows.mean(1)
    if reduction == "sum":
        return rows.sum(1)
    raise unknown_name("reduction", reduction, ("mean", "sum"))
