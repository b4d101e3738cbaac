"""Noise scales: how much noise a denoising step adds, and the drift that compensates for it.

`flexgym.flow.transition` takes the step; samplers of flow-matching RL differ only in the two coefficients that are
computed here.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from flexgym.core.errors import ConfigError, unknown_name


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


class Preserving(NoiseScale):
    """Base of the scales that keep the noise level: ``(sigma_next - drift)^2 + std^2 = sigma_next^2``, as `CPS` does.

    Subclasses say which share of the noise at ``sigma_next`` is old; the rest is fresh.
    """

    @abstractmethod
    def kept(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        """Return the share ``rho`` of the noise that is kept, in [0, 1]: ``std = sigma_next * sqrt(1 - rho^2)``."""

    def coefficients(self, sigma: Tensor, sigma_next: Tensor, sigma_max: float) -> tuple[Tensor, Tensor]:
        """Replace noise beyond the kept share, see `NoiseScale.coefficients`."""
        kept = self.kept(sigma, sigma_next)
        return sigma_next * (1.0 - kept), sigma_next * torch.sqrt(1.0 - kept.square())


@dataclass(frozen=True)
class Precise(Preserving):
    """Exact solution of the Flow-GRPO SDE over a step (PRECISE).

    The kept share is ``rho = (s' (1 - s) / (s (1 - s')))^(eta^2 / 2)`` with s and s' the noise levels before and after.
    From pure noise, s = 1, nothing is kept.
    """

    name: ClassVar[str] = "precise"
    eta: float = 0.7

    def kept(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        """Return the ratio of the two odds to the power ``eta^2 / 2``, see `Preserving.kept`."""
        odds = sigma_next * (1.0 - sigma) / (sigma * (1.0 - sigma_next))
        return odds.pow(0.5 * self.eta**2)


@dataclass(frozen=True)
class DancePrecise(Preserving):
    """Exact solution of the DanceGRPO SDE over a step (PRECISE).

    The kept share is ``rho = exp(-eta^2 / 2 * (1 / s' - 1 / s))`` with s and s' the noise levels before and after.
    """

    name: ClassVar[str] = "dance_precise"
    eta: float = 0.3

    def kept(self, sigma: Tensor, sigma_next: Tensor) -> Tensor:
        """Return the decay of the old noise over the step, see `Preserving.kept`."""
        if not self.eta:  # also where sigma_next is 0, from which the exponent would be 0 * inf
            return torch.ones_like(sigma)
        return torch.exp(-0.5 * self.eta**2 * (1.0 / sigma_next - 1.0 / sigma))


_NOISE_SCALES: dict[str, type[NoiseScale]] = {
    scale.name: scale for scale in (ODE, FlowSDE, DanceSDE, CPS, Precise, DancePrecise)
}


def noise_scale(name: str, eta: float | None = None) -> NoiseScale:
    """Build a noise scale by name.

    Args:
        name: ``"ode"``, ``"flow"``, ``"dance"``, ``"cps"``, ``"precise"`` or ``"dance_precise"``.
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
