"""Reward gradients without a graph across denoising steps: which steps to replay, and by what factor.

Wherever the inputs of the network are detached, the gradient of a reward's loss is ``sum_k c_k <dv_k / dtheta, g>``:
``g`` is the gradient of the loss at the latents that are scored, ``v_k`` the velocity at step k and ``c_k`` a number.
So samples are made without a graph, g is computed once through decoder and reward, and each chosen step is replayed on
its own with `cotangent_loss`. Steps are counted from noise; the noise levels ``sigmas`` are ``[T + 1]``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from flexgym.core.errors import ConfigError

_STREAM = 0x726566  # separates these draws from others with the same seed and iteration


@dataclass(frozen=True)
class Replays:
    """Steps of an iteration to replay, and the step at which the reward scores.

    The clean latents ``x - sigma v`` predicted at the step ``stop`` are scored; those of the last step are the sample.

    Attributes:
        steps: indices of the steps, none after the stop. Repetitions of the stop are copies of the finished sample
            that are re-noised to its level and scored as well.
        stop: index of the step whose prediction is scored.
        rescale: share of the missing steps to make up for; 0 for none.

    Raises:
        ConfigError: there is no step, a step lies outside 0 to ``stop``, or rescale is negative.
    """

    steps: tuple[int, ...]
    stop: int
    rescale: float = 0.0

    def __post_init__(self) -> None:
        if not self.steps or any(not 0 <= step <= self.stop for step in self.steps):
            raise ConfigError(
                f"expected steps to replay from 0 to stop={self.stop}, at least one, got {sorted(self.steps)}"
            )
        if not self.rescale >= 0:
            raise ConfigError(f"expected rescale of at least 0, got {self.rescale}")

    def __contains__(self, step: int) -> bool:
        """Return whether a step is replayed, or the one that is scored."""
        return step in self.steps or step == self.stop

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def copies(self) -> int:
        """Number of re-noised copies of a sample."""
        return max(self.steps.count(self.stop) - 1, 0)

    def coefficients(self, sigmas: Tensor) -> tuple[float, ...]:
        """Compute the factor c of each step in `cotangent_loss`.

        It is the change of the scored latents with the velocity, the mean over the copies, and times ``1 + rescale *
        (sum |ds| / sum over steps |ds| - 1)``, which makes up for part of the steps that are left out.

        Args:
            sigmas: noise levels, ``[T + 1]``.

        Raises:
            ConfigError: the grid has no such steps.
        """
        last = len(sigmas) - 2
        if self.stop > last:
            raise ConfigError(f"expected a stop from 0 to {last}, the steps of the grid, got {self.stop}")
        levels = sigmas.tolist()
        changes = [(0.0 if step == self.stop else levels[step + 1]) - levels[step] for step in self.steps]
        factor = 1.0 + self.rescale * ((levels[-1] - levels[0]) / sum(changes) - 1.0) if self.rescale else 1.0
        return tuple(factor * change / (self.copies + 1) for change in changes)


@dataclass(frozen=True)
class ReplaySchedule:
    """Schedule that draws the steps of each iteration, the same for all groups and learners.

    Attributes:
        num_steps: number of denoising steps T.
        draw: returns the steps of one iteration, from T and random numbers.
    """

    num_steps: int
    draw: Callable[[int, np.random.Generator], Replays]

    @property
    def windows(self) -> tuple[Replays, ...]:
        """Return an example, since every draw lies within the steps."""
        return (self.at(0, 0),)

    def at(self, iteration: int, seed: int) -> Replays:
        """Return the steps of one iteration, which depend on the arguments alone.

        Args:
            iteration: index of the training iteration, from 0.
            seed: seed of the run, at least 0.
        """
        return self.draw(self.num_steps, np.random.default_rng((_STREAM, seed, iteration)))


def cotangent_loss(velocity: Tensor, gradient: Tensor, *, coefficient: float | Tensor) -> Tensor:
    """Compute ``c <v, sg(g)>`` for each row, whose gradient is that of the reward's loss through this step.

    Args:
        velocity: of the policy at the detached latents of the step, ``[B, ...]``.
        gradient: of the loss at the latents that were scored, ``[B, ...]``; no gradient flows into it.
        coefficient: from `Replays.coefficients`; one number, or ``[B]``.

    Returns:
        ``[B]``; sums over dimensions, as the reward of a sample is one number.

    Raises:
        ConfigError: the shapes differ.
    """
    if velocity.shape != gradient.shape:
        raise ConfigError(
            f"velocity and gradient must have the same shape, got {list(velocity.shape)} and {list(gradient.shape)}"
        )
    return coefficient * (velocity * gradient.detach()).flatten(1).sum(1)


def refl_replays(step: int) -> Replays:
    """Replay one step (ReFL, arXiv 2304.05977), whose predicted clean latents ``x_j - sigma_j v_j`` are scored.

    Args:
        step: index j of the step, see `draw_refl_step`.
    """
    return Replays((step,), stop=step)


def draft_lv_replays(num_steps: int, *, copies: int = 2) -> Replays:
    """Replay the last step on a sample's own latents and on copies re-noised to that level (DRaFT-LV).

    The clean latents ``x - sigma v`` predicted from each are scored, and their losses are averaged (arXiv 2309.17400).

    Args:
        num_steps: number of denoising steps T.
        copies: number of re-noised copies n.

    Raises:
        ConfigError: the number of copies is negative.
    """
    if copies < 0:
        raise ConfigError(f"copies of DRaFT-LV must be at least 0, got {copies}")
    return Replays((num_steps - 1,) * (copies + 1), stop=num_steps - 1)


def drtune_replays(trained: Collection[int], *, stop: int) -> Replays:
    """Replay the trained steps up to a stop (DRTune), whose predicted clean latents are scored.

    Args:
        trained: indices of the trained steps; those after the stop are left out.
        stop: index of the step at which sampling stops, see `draw_drtune_steps`.

    Raises:
        ConfigError: there is no trained step up to the stop.
    """
    steps = tuple(sorted({step for step in trained if step <= stop}))
    if not steps:
        raise ConfigError(f"DRTune needs a trained step up to stop={stop}, got {sorted(trained)}")
    return Replays(steps, stop=stop)


def sparse_replays(num_steps: int, active: Collection[int], *, rescale: float = 0.5) -> Replays:
    """Replay the active steps of a finished trajectory (FlowBP-Sparse, arXiv 2606.11075), whose end is scored.

    Args:
        num_steps: number of denoising steps T.
        active: indices of the active steps, see `draw_sparse_steps`.
        rescale: share of the missing steps to make up for; 0 for none.
    """
    return Replays(tuple(sorted(set(active))), stop=num_steps - 1, rescale=rescale)


def draw_refl_step(num_steps: int, rng: np.random.Generator, *, last: int = 11) -> int:
    """Draw the step of ReFL among the last ones; the authors of FlowBP use the last 11 of 25.

    Args:
        num_steps: number of denoising steps T.
        rng: random generator.
        last: number of steps to draw from; all if there are fewer.
    """
    return int(rng.integers(max(num_steps - last, 0), num_steps))


def draw_drtune_steps(
    num_steps: int, rng: np.random.Generator, *, trained: int = 3, stop_share: float = 0.4
) -> tuple[tuple[int, ...], int]:
    """Draw the stop of DRTune among the last steps, and equally spaced trained steps up to it from a random first one.

    Args:
        num_steps: number of denoising steps T.
        rng: random generator.
        trained: number of trained steps; all up to the stop if there are fewer.
        stop_share: share of the steps, counted from the end, at which sampling may stop.

    Returns:
        The trained steps, and the stop.
    """
    stop = num_steps - int(rng.integers(1, max(round(num_steps * stop_share), 1) + 1))
    count = min(trained, stop + 1)
    stride = (stop + 1) // count
    first = int(rng.integers(0, stop + 1 - (count - 1) * stride))
    return tuple(first + index * stride for index in range(count)), stop


def draw_sparse_steps(
    num_steps: int, rng: np.random.Generator, *, count: int = 4, bias: float = 1.0
) -> tuple[int, ...]:
    """Draw the active steps of FlowBP-Sparse without repetition, step i with weight ``(i + 1)^bias``.

    Args:
        num_steps: number of denoising steps T.
        rng: random generator.
        count: number of steps; all if there are fewer.
        bias: how strongly late steps, near the sample, are preferred.
    """
    weights = np.arange(1, num_steps + 1, dtype=np.float64) ** bias
    drawn = rng.choice(num_steps, size=min(count, num_steps), replace=False, p=weights / weights.sum())
    return tuple(sorted(drawn.tolist()))


def lagrange_weights(points: Sequence[float], start: float, target: float) -> tuple[float, ...]:
    """Compute the integral from start to target of each Lagrange polynomial on the points (FlowBP-Lagrange).

    ``x + sum_i w_i v_i`` then jumps from noise level start to target, with the velocities known at the points.

    Args:
        points: noise levels of the known velocities, all different.
        start: noise level to begin at.
        target: noise level to end at.

    Returns:
        One weight per point; their sum is ``target - start``.

    Raises:
        ConfigError: there are no points, or two are equal.
    """
    if not points or len(set(points)) < len(points):
        raise ConfigError(f"Lagrange weights need different points, got {list(points)}")
    powers = np.arange(1, len(points) + 1)
    moments = (np.float64(target) ** powers - np.float64(start) ** powers) / powers
    return tuple(np.linalg.solve(np.vander(points, increasing=True).T, moments).tolist())
