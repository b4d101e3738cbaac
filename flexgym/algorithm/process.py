"""Training examples of a rollout: noisy steps of the sampler, or finished samples with fresh noise."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from torch import Tensor

from flexgym.core.errors import ConfigError
from flexgym.flow import ODE, Gaussian, NoiseScale, Window, clean_gaussian, require_stochastic, transition


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


class Process(ABC):
    """How samples are made for training, and which distribution of them is trained.

    Attributes:
        noise: noise of the sampler's steps inside the window; steps outside it are ODE steps.
    """

    noise: NoiseScale

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

    @abstractmethod
    def trains(self, step: int, num_steps: int) -> bool:
        """Return whether a step can have a trained distribution."""

    @abstractmethod
    def records(self, step: int, window: Window, num_steps: int) -> bool:
        """Return whether the move of a step must be handed to `examples`."""

    @abstractmethod
    def examples(self, moves: Sequence[Move], window: Window, noised: Callable[[Tensor, int], Move]) -> list[Move]:
        """Turn the recorded moves of an episode into one training example per step of the window.

        Args:
            moves: those that `records` asked for, in order.
            window: the trained steps.
            noised: puts fresh noise on clean latents at the level of a step, see `FlowPolicy.noised`.

        Returns:
            W moves, whose ``latents`` are the target of training.
        """

    @abstractmethod
    def check(self, windows: Iterable[Window], sigmas: Tensor) -> None:
        """Reject windows that cannot be trained on a grid of noise levels.

        Args:
            windows: all that can occur.
            sigmas: the grid, ``[T + 1]``.

        Raises:
            ConfigError: a window contains a step without density.
        """

    @property
    @abstractmethod
    def forwards_per_level(self) -> int:
        """Forwards without gradient that each trained level costs beyond those of sampling."""


@dataclass(frozen=True)
class SamplerSteps(Process):
    """Train the sampler's own noisy steps (Flow-GRPO, arXiv 2505.05470): the target is the next latents.

    Attributes:
        noise: of the steps inside the window.

    Raises:
        ConfigError: a noise scale without noise.
    """

    noise: NoiseScale

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

    def records(self, step: int, window: Window, num_steps: int) -> bool:
        """See `Process.records`: the steps of the window."""
        return step in window

    def examples(self, moves: Sequence[Move], window: Window, noised: Callable[[Tensor, int], Move]) -> list[Move]:
        """See `Process.examples`: the moves themselves."""
        return list(moves)

    def check(self, windows: Iterable[Window], sigmas: Tensor) -> None:
        """Require noise in every step of the windows, see `Process.check`."""
        require_stochastic(windows, sigmas, self.noise)

    @property
    def forwards_per_level(self) -> int:
        """See `Process.forwards_per_level`: sampling has computed everything."""
        return 0


@dataclass(frozen=True)
class ForwardProcess(Process):
    """Train on finished samples with fresh noise (arXiv 2509.25050, 2509.16117): the target is the clean latents.

    Samples are made by ODE steps. The gradient of an SDE step is a sum over as many random numbers as a latent has, of
    which few decide the reward; here the random part is what samples differ in, so fewer samples show the direction.

    Attributes:
        eta: standard deviation of the clean latents given noised ones, in units of the noise level. The default makes
            the log density the negative flow-matching loss of the paper, see `flexgym.flow.clean_gaussian`.
    """

    eta: float = math.sqrt(0.5)
    noise: NoiseScale = field(default=ODE(), init=False)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.eta) and self.eta > 0):
            raise ConfigError(f"eta of the forward process must be a finite number above 0, got {self.eta!r}")

    def gaussian(self, latents: Tensor, velocity: Tensor, levels: Levels) -> Gaussian:
        """See `Process.gaussian`: the distribution of the clean latents."""
        return clean_gaussian(latents, velocity, levels.sigma, eta=self.eta)

    def trains(self, step: int, num_steps: int) -> bool:
        """See `Process.trains`: every level."""
        return True

    def records(self, step: int, window: Window, num_steps: int) -> bool:
        """See `Process.records`: the last step, which ends on the clean latents."""
        return step == num_steps - 1

    def examples(self, moves: Sequence[Move], window: Window, noised: Callable[[Tensor, int], Move]) -> list[Move]:
        """See `Process.examples`: the clean latents, noised anew to each level of the window."""
        examples = [noised(moves[-1].latents, step) for step in window.steps]
        return [replace(example, latents=examples[0].latents) for example in examples]

    def check(self, windows: Iterable[Window], sigmas: Tensor) -> None:
        """See `Process.check`: every level has a density."""

    @property
    def forwards_per_level(self) -> int:
        """See `Process.forwards_per_level`: one, for the density under the weights that sampled."""
        return 1
