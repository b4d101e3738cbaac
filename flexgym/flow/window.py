"""Windows of denoising steps that are stochastic and trained; all other steps are plain ODE steps.

The window of an iteration must be the same for every group and every rank: with windows drawn per request, the rewards
of a group are not comparable. It is therefore a pure function of (seed, iteration).
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from flexgym.core.errors import ConfigError, unknown_name
from flexgym.flow.noise import NoiseScale

Strategy = Literal["random", "progressive", "all"]
_STRATEGIES = ("random", "progressive", "all")
_MOST_NOISE = 2.0  # pure noise has standard deviation 1
_STREAM = 0x77696E  # separates these draws from others with the same seed and iteration


@dataclass(frozen=True)
class Window:
    """Range of consecutive denoising steps.

    Attributes:
        start: first step, counted from 0 (pure noise).
        size: number of steps, W.
    """

    start: int
    size: int

    def __post_init__(self) -> None:
        if self.start < 0 or self.size < 1:
            raise ConfigError(f"a window needs start >= 0 and size >= 1, got start={self.start}, size={self.size}")

    @property
    def stop(self) -> int:
        """Return the first step after the window."""
        return self.start + self.size

    @property
    def steps(self) -> range:
        """Return the steps of the window in order."""
        return range(self.start, self.stop)

    def __contains__(self, step: int) -> bool:
        return self.start <= step < self.start + self.size

    def __len__(self) -> int:
        return self.size


@dataclass(frozen=True)
class WindowSchedule:
    """Schedule that assigns a window to each iteration.

    - ``"random"`` draws the first step in each iteration (Flow-GRPO-Fast, whose range (a, b) is
      ``first=(a, b - size)`` here).
    - ``"progressive"`` advances by ``stride`` after ``every`` iterations, and returns to the beginning after the end
      (MixGRPO, arXiv 2507.21802). The last window always begins at the highest first step, after a shorter stride where
      ``stride`` does not divide the way there, so that no step is left out. All windows have the same size; those of
      the authors shrink at the end, down to nothing.
    - ``"all"`` trains every step but the last, whose density is too sharp to be useful (Flow-GRPO). To train the last
      step as well, use ``size=num_steps``.

    Attributes:
        num_steps: number of denoising steps, T.
        size: number of steps in the window, W; not allowed with ``"all"``.
        strategy: ``"random"``, ``"progressive"`` or ``"all"``.
        first: lowest and highest first step, both included; None for all that fit.
        every: number of iterations at each position (``"progressive"``). A pair (from, to) decreases it linearly from
            the first position to where the window would be empty, as in MixGRPO: fewer for steps near the sample.
        decay: (step, rate) makes the number of iterations ``ceil(every * exp(-rate * (start - step)))`` at positions
            after that step (``"progressive"``); MixGRPO has (13, 0.1). None does not.
        stride: number of steps between positions, at most ``size`` (``"progressive"``).
    """

    num_steps: int
    size: int | None = None
    strategy: Strategy = "random"
    first: tuple[int, int] | None = None
    every: int | tuple[int, int] = 25
    stride: int = 1
    decay: tuple[int, float] | None = None

    def __post_init__(self) -> None:
        if self.strategy not in _STRATEGIES:
            raise unknown_name("window strategy", self.strategy, _STRATEGIES)
        for name in ("num_steps", "stride"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} of a window schedule must be at least 1, got {getattr(self, name)}")
        self._check_every()
        if self.strategy == "all":
            if self.size is not None or self.first is not None:
                raise ConfigError("strategy 'all' takes neither size nor first: leave them out, or choose 'random'")
            return
        if self.size is None or not 1 <= self.size <= self.num_steps:
            raise ConfigError(f"size must be between 1 and num_steps={self.num_steps}, got {self.size}")
        if self.strategy == "progressive" and self.stride > self.size:
            raise ConfigError(
                f"stride must be at most size={self.size} with strategy 'progressive', got {self.stride}: the steps"
                " between two windows would never be trained"
            )
        low, high = self._first
        if not 0 <= low <= high <= self.num_steps - self.size:
            raise ConfigError(
                f"first={self.first} puts a window of {self.size} steps outside of the {self.num_steps} steps; "
                f"expected 0 <= low <= high <= {self.num_steps - self.size}"
            )

    @property
    def windows(self) -> tuple[Window, ...]:
        """Return all possible windows in order, for checks before training (see `require_stochastic`)."""
        if self.size is None:
            return (Window(0, max(self.num_steps - 1, 1)),)
        low, high = self._first
        stride = self.stride if self.strategy == "progressive" else 1
        return tuple(Window(start, self.size) for start in dict.fromkeys((*range(low, high + 1, stride), high)))

    def at(self, iteration: int, seed: int) -> Window:
        """Return the window of one iteration, which depends on the arguments alone.

        Args:
            iteration: index of the training iteration, from 0.
            seed: seed of the run, at least 0.

        Raises:
            ConfigError: the iteration or the seed is negative.
        """
        if iteration < 0 or seed < 0:
            raise ConfigError(f"iteration and seed must be at least 0, got iteration={iteration}, seed={seed}")
        windows = self.windows
        if self.strategy == "progressive":
            ends = list(itertools.accumulate(self._iterations(window.start) for window in windows))
            return windows[bisect.bisect_right(ends, iteration % ends[-1])]
        draw = np.random.default_rng((_STREAM, seed, iteration)).integers(len(windows))
        return windows[int(draw)]

    def _iterations(self, start: int) -> int:
        """Return the number of iterations at a position."""
        if isinstance(self.every, tuple):
            most, least = self.every
            low, high = self._first
            progress = (start - low) / (high + (self.size or 0) - low)
            return max(least, int(most * (1 - progress) + least * progress))
        if self.decay is None:
            return self.every
        step, rate = self.decay
        return math.ceil(self.every * math.exp(-rate * max(0, start - step)))

    def _check_every(self) -> None:
        most, least = self.every if isinstance(self.every, tuple) else (self.every, self.every)
        if not 1 <= least <= most:
            raise ConfigError(
                "every of a window schedule must be at least 1, or a pair (from, to) that does not increase, got"
                f" {self.every}"
            )
        if self.decay is not None and not (self.decay[0] >= 0 and 0 < self.decay[1] < math.inf):
            raise ConfigError(f"decay must be (step, rate) with step >= 0 and a positive rate, got {self.decay}")
        varies = isinstance(self.every, tuple)
        if self.decay is not None and varies:
            raise ConfigError(
                f"choose a pair every={self.every} (linear) or decay={self.decay} (exponential), not both"
            )
        if (self.decay is not None or varies) and self.strategy != "progressive":
            raise ConfigError(
                f"a decreasing number of iterations needs strategy 'progressive', got {self.strategy!r}, whose windows"
                " do not advance"
            )

    @property
    def _first(self) -> tuple[int, int]:
        return self.first if self.first is not None else (0, self.num_steps - (self.size or 0))


def deterministic_steps(sigmas: Tensor, noise: NoiseScale) -> tuple[int, ...]:
    """Return the steps of a grid that add no noise and therefore have no density to train on.

    Args:
        sigmas: noise levels, ``[T + 1]``.
        noise: noise scale of the steps.

    Returns:
        Indices of the steps: all for `ODE`, the last one for `CPS` on a grid that ends at 0, none for the SDEs.
    """
    _, std = noise.coefficients(sigmas[:-1].float(), sigmas[1:].float(), float(sigmas[1]))
    return tuple((std <= 0).nonzero().flatten().tolist())


def noise_after(sigmas: Tensor, noise: NoiseScale) -> Tensor:
    """Compute how much noise is in the latents after each step of a grid, if they had as much as expected before it.

    Latents at noise level sigma hold noise of standard deviation sigma. A step leaves ``sigma_next - drift`` of it and
    adds fresh noise: exactly ``sigma_next`` with `ODE` and `CPS`, more with the SDEs, which take large steps only
    approximately.

    Args:
        sigmas: noise levels, ``[T + 1]``.
        noise: noise scale of the steps.

    Returns:
        Standard deviations, float32 ``[T]``.
    """
    before, after = sigmas[:-1].float(), sigmas[1:].float()
    drift, std = noise.coefficients(before, after, float(sigmas[1]))
    return torch.hypot(after - drift, std)


def require_stochastic(windows: Window | Iterable[Window], sigmas: Tensor, noise: NoiseScale) -> None:
    """Raise an error for windows that cannot be trained on a grid.

    Args:
        windows: one window, or all windows of a schedule (``schedule.windows``).
        sigmas: noise levels, ``[T + 1]``.
        noise: noise scale of the steps.

    Raises:
        ConfigError: a window exceeds the steps of the grid, or contains a step without noise, or one that leaves more
            than twice the noise of pure noise in the latents (see `noise_after`).
    """
    num_steps = len(sigmas) - 1
    silent = set(deterministic_steps(sigmas, noise))
    levels = noise_after(sigmas, noise)[:-1].tolist()  # policies take the last step without noise
    loud = {step: level for step, level in enumerate(levels) if not level <= _MOST_NOISE}
    for window in (windows,) if isinstance(windows, Window) else windows:
        if window.stop > num_steps:
            raise ConfigError(
                f"the window of steps {window.start} to {window.stop - 1} exceeds the grid of {num_steps} steps"
            )
        found = sorted(silent.intersection(window.steps))
        if found:
            raise ConfigError(
                f"the window of steps {window.start} to {window.stop - 1} contains steps {found}, "
                f"where noise scale {noise.name!r} (eta={noise.eta}) adds no noise; end the window before them, "
                "or choose another noise scale"
            )
        excessive = sorted(loud.keys() & set(window.steps))
        if excessive:
            step = excessive[0]
            raise ConfigError(
                f"the window of steps {window.start} to {window.stop - 1} contains step {step} from sigma "
                f"{sigmas[step]:.6g} to {sigmas[step + 1]:.6g}, after which noise scale {noise.name!r} "
                f"(eta={noise.eta}) leaves latents with noise of std {loud[step]:.3g}, expected at most "
                f"{_MOST_NOISE:g}; lower eta, take more denoising steps, choose noise scale 'cps', or move the window"
            )
