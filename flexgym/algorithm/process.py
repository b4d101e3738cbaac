"""Training examples of a rollout: noisy steps of the sampler, or finished samples with fresh noise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from flexgym.algorithm.kept import Rollout
from flexgym.algorithm.levels import LevelDraw
from flexgym.core.errors import ConfigError
from flexgym.core.seeds import whole_seed
from flexgym.flow import ODE, Gaussian, NoiseScale, Steps, clean_gaussian, require_stochastic, transition


@dataclass(frozen=True, eq=False)
class Levels:
    """The noise levels of one denoising step, one entry per row.

    Attributes:
        sigma: before the step, ``[B]``.
        sigma_next: after it, ``[B]``.
        sigma_max: largest sigma by whose ``1 - sigma`` a noise scale divides, see `flexgym.flow.FlowSDE`.
    """

    sigma: Tensor
    sigma_next: Tensor
    sigma_max: float

    def to(self, device: torch.device) -> Levels:
        """Return the levels on a device."""
        return Levels(self.sigma.to(device), self.sigma_next.to(device), self.sigma_max)

    def split(self, count: int) -> list[Levels]:
        """Return the levels of ``count`` equal parts of the rows, in order."""
        parts = zip(self.sigma.chunk(count), self.sigma_next.chunk(count), strict=True)
        return [Levels(sigma, after, self.sigma_max) for sigma, after in parts]


@dataclass(frozen=True, eq=False)
class Move:
    """One denoising step of P groups.

    Attributes:
        before: latents that the step started from, float32 ``[P, G, ...]``.
        latents: latents after it, of the same shape.
        log_prob: log density of ``latents``, averaged over the elements of a latent, float32 ``[P, G]``; zero where
            the step adds no noise.
        mean: mean of the step, float32 ``[P, G, ...]``; ``latents`` itself where the step adds no noise.
    """

    before: Tensor
    latents: Tensor
    log_prob: Tensor
    mean: Tensor


@dataclass(frozen=True, eq=False)
class Trained:
    """L trained noise levels of P groups, from which a replay starts.

    Attributes:
        latents: noisy latents, ``[L, P, G, ...]``.
        target: what the density is that of: the next latents, or the clean ones, ``[L, P, G, ...]``.
        levels: noise levels of all ``L * P * G`` rows.
        old_log_prob: log density of the target under the weights that sampled, ``[L, P, G]``, where it was kept.
        old_mean: mean under the weights that sampled, ``[L, P, G, ...]``, where it was kept.
        reward_gradient: gradient of the reward's loss at the mean, ``[L, P, G, ...]``, where there is one.
    """

    latents: Tensor
    target: Tensor
    levels: Levels
    old_log_prob: Tensor | None = None
    old_mean: Tensor | None = None
    reward_gradient: Tensor | None = None

    def without_old(self) -> Trained:
        """Return the levels without what sampling computed, for replays with other rows in a forward."""
        return replace(self, old_log_prob=None, old_mean=None)


class Process(ABC):
    """How samples are made for training, and which distribution of them is trained.

    Attributes:
        noise: noise of the sampler's steps inside the window; steps outside it are ODE steps.
    """

    noise: NoiseScale

    @property
    @abstractmethod
    def keeps(self) -> tuple[str, ...]:
        """Names of the tensors that a rollout can keep, of which `Rollout.kept` says the shape."""

    @property
    def keeps_old(self) -> bool:
        """Return whether sampling computes the densities and means that training compares with."""
        return "old_mean" in self.keeps

    @abstractmethod
    def gaussian(self, latents: Tensor, velocity: Tensor, levels: Levels) -> Gaussian:
        """Return the trained distribution of one step.

        Args:
            latents: ``[B, ...]``.
            velocity: of the model at these latents, ``[B, ...]``.
            levels: noise levels of the step.

        Returns:
            Mean ``[B, ...]`` and std ``[B]``.
        """

    def velocity_scale(self, levels: Levels) -> Tensor:
        """Return by how much the mean of each row changes with the velocity, ``|d mean / d velocity|``, ``[B]``."""
        zero, one = (torch.full_like(levels.sigma, value).view(-1, 1) for value in (0.0, 1.0))
        return self.gaussian(zero, one, levels).mean.abs().view(-1)

    @abstractmethod
    def trains(self, step: int, num_steps: int) -> bool:
        """Return whether a step can have a trained distribution."""

    @abstractmethod
    def records(self, step: int, window: Steps, num_steps: int) -> bool:
        """Return whether a rollout keeps the move of a step."""

    @abstractmethod
    def is_free(self, step: int, window: Steps) -> bool:
        """Return whether any solver may take a step: training does not depend on how it is taken."""

    @abstractmethod
    def count(self, window: Steps) -> int:
        """Return the number of trained levels W of a sample."""

    @abstractmethod
    def trained(self, rollout: Rollout, indices: Sequence[int], grid: Tensor, *, draw: int = 0) -> Trained:
        """Return some of the trained levels of a rollout.

        Args:
            rollout: P groups.
            indices: numbers of the L levels, each below `count`.
            grid: noise levels of the sampler, ``[T + 1]``.
            draw: number of the pass over the rollout; each draws noise of its own.
        """

    @abstractmethod
    def check(self, windows: Iterable[Steps], sigmas: Tensor) -> None:
        """Reject windows that cannot be trained on a grid of noise levels.

        Args:
            windows: all that can occur.
            sigmas: the grid, ``[T + 1]``.

        Raises:
            ConfigError: a window contains a step without density.
        """


@dataclass(frozen=True)
class SamplerSteps(Process):
    """Train the sampler's own noisy steps (Flow-GRPO, arXiv 2505.05470): the target is the next latents.

    Attributes:
        noise: of the steps inside the window.

    Raises:
        ConfigError: a noise scale without noise.
    """

    noise: NoiseScale

    @property
    def keeps(self) -> tuple[str, ...]:
        """See `Process.keeps`: latents before and after each trained step, with density and mean of the step."""
        return "latents", "target", "old_log_prob", "old_mean"

    def gaussian(self, latents: Tensor, velocity: Tensor, levels: Levels) -> Gaussian:
        """See `Process.gaussian`: the distribution of the next latents."""
        return transition(
            latents,
            velocity,
            levels.sigma,
            sigma_next=levels.sigma_next,
            noise=self.noise,
            sigma_max=levels.sigma_max,
        )

    def trains(self, step: int, num_steps: int) -> bool:
        """See `Process.trains`: all but the last, whose noise no later step would remove."""
        return step < num_steps - 1

    def records(self, step: int, window: Steps, num_steps: int) -> bool:
        """See `Process.records`: the steps of the window."""
        return step in window

    def is_free(self, step: int, window: Steps) -> bool:
        """See `Process.is_free`: the steps outside the window."""
        return step not in window

    def count(self, window: Steps) -> int:
        """See `Process.count`: the steps of the window."""
        return len(window)

    def trained(self, rollout: Rollout, indices: Sequence[int], grid: Tensor, *, draw: int = 0) -> Trained:
        """See `Process.trained`: what sampling kept, the same in each pass."""
        chosen = list(indices)
        kept = {name: tensor[chosen] for name, tensor in rollout.kept.items()}
        shape, steps = kept["latents"].shape[:3], torch.tensor([rollout.window.steps[index] for index in chosen])
        before, after = (grid[at].view(-1, 1, 1).expand(shape).flatten() for at in (steps, steps + 1))
        return Trained(**kept, levels=Levels(before, after, sigma_max=float(grid[1])))

    def check(self, windows: Iterable[Steps], sigmas: Tensor) -> None:
        """Require noise in every step of the windows, see `Process.check`."""
        require_stochastic(windows, sigmas, self.noise)


@dataclass(frozen=True)
class VisitedSteps(SamplerSteps):
    """Train the means of the sampler's steps at the latents that it visits, with noise or without."""

    @property
    def keeps(self) -> tuple[str, ...]:
        """See `Process.keeps`: latents before and after each trained step."""
        return "latents", "target"

    def trains(self, step: int, num_steps: int) -> bool:
        """See `Process.trains`: without noise every step."""
        return isinstance(self.noise, ODE) or super().trains(step, num_steps)

    def check(self, windows: Iterable[Steps], sigmas: Tensor) -> None:
        """Require noise in every step of the windows where there is any, see `Process.check`."""
        if not isinstance(self.noise, ODE):
            super().check(windows, sigmas)


@dataclass(frozen=True)
class ForwardProcess(Process):
    """Train on finished samples with fresh noise (arXiv 2509.25050, 2509.16117): the target is the clean latents.

    Samples are made by ODE steps. The gradient of an SDE step is a sum over as many random numbers as a latent has, of
    which few decide the reward; here the random part is what samples differ in, so fewer samples show the direction.

    Attributes:
        eta: standard deviation of the clean latents given noised ones, in units of the noise level. The default makes
            the log density the negative flow-matching loss of the paper, see `flexgym.flow.clean_gaussian`.
        draw: how the trained noise levels are drawn.
    """

    eta: float = math.sqrt(0.5)
    draw: LevelDraw = LevelDraw()
    noise: NoiseScale = field(default=ODE(), init=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.eta) and self.eta > 0):
            raise ConfigError(f"eta of the forward process must be a finite number above 0, got {self.eta!r}")

    @property
    def keeps(self) -> tuple[str, ...]:
        """See `Process.keeps`: the clean latents, once for all levels."""
        return ("target",)

    def gaussian(self, latents: Tensor, velocity: Tensor, levels: Levels) -> Gaussian:
        """See `Process.gaussian`: the distribution of the clean latents."""
        return clean_gaussian(latents, velocity, levels.sigma, eta=self.eta)

    def trains(self, step: int, num_steps: int) -> bool:
        """See `Process.trains`: every level."""
        return True

    def records(self, step: int, window: Steps, num_steps: int) -> bool:
        """See `Process.records`: the last step, which ends on the clean latents."""
        return step == num_steps - 1

    def is_free(self, step: int, window: Steps) -> bool:
        """See `Process.is_free`: all steps, since only the finished samples are trained."""
        return True

    def count(self, window: Steps) -> int:
        """See `Process.count`: the steps of the window, or the levels that are drawn."""
        return len(window) if self.draw.source == "grid" else self.draw.count

    def trained(self, rollout: Rollout, indices: Sequence[int], grid: Tensor, *, draw: int = 0) -> Trained:
        """See `Process.trained`: clean latents with noise that follows from seed, pass and level of each group."""
        clean = rollout.kept["target"][0].float()
        seeds, chosen = [whole_seed(seed) for seed in rollout.seeds], list(indices)
        if self.draw.source == "grid":
            sigma = grid[list(rollout.window.steps)][chosen].view(-1, 1, 1).expand(len(chosen), *clean.shape[:2])
        else:
            drawn = [self.draw.sigmas(_source([seed, draw]), clean.shape[1]) for seed in seeds]
            sigma = torch.stack(drawn, 1)[chosen]
        # from 1 on, since missing numbers of a seed sequence count as 0
        noise = torch.stack([self._noise(seeds, [draw, 1 + index], clean.shape[1:]) for index in chosen])
        sigma, noise = sigma.to(clean.device), noise.to(clean.device)
        level = sigma.view(*sigma.shape, *[1] * (clean.ndim - 2))
        latents = (1.0 - level) * clean + level * noise
        levels = Levels(sigma.flatten(), torch.zeros_like(sigma).flatten(), sigma_max=float(grid[1]))
        return Trained(latents, clean.expand(latents.shape), levels)

    def _noise(self, seeds: Sequence[int], numbers: Sequence[int], shape: torch.Size) -> Tensor:
        """Draw the noise of one level of one pass, ``[P, G, ...]``, each group from a source of its own."""
        one = (1, *shape[1:]) if self.draw.shared else shape
        drawn = [torch.randn(one, generator=_source([seed, *numbers])) for seed in seeds]
        return torch.stack([noise.expand(shape) for noise in drawn])

    def check(self, windows: Iterable[Steps], sigmas: Tensor) -> None:
        """See `Process.check`: every level has a density."""


def _source(numbers: Sequence[int]) -> torch.Generator:
    """Return the source of noise of a group's seed, a pass and, for noise, a level."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
