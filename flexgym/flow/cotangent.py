"""Reward gradients without a graph across denoising steps: which steps to replay, and by what factor.

Wherever the inputs of the network are detached, the gradient of a reward's loss is ``sum_k c_k <dv_k / dtheta, g>``:
``g`` is the gradient of the loss at the latents that are scored, ``v_k`` the velocity at step k and ``c_k`` a number.
So samples are made without a graph, g is computed once through decoder and reward, and each chosen step is replayed on
its own with `cotangent_loss`. Steps are counted from noise; the noise levels ``sigmas`` are ``[T + 1]``.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from flexgym.core.errors import ConfigError


@dataclass(frozen=True)
class Replays:
    """Steps to replay, and the factor c of each.

    Attributes:
        steps: indices of the steps; one may occur several times, with different latents.
        coefficients: factor of each in `cotangent_loss`.
    """

    steps: tuple[int, ...]
    coefficients: tuple[float, ...]


def cotangent_loss(velocity: Tensor, gradient: Tensor, *, coefficient: float | Tensor) -> Tensor:
    """Compute ``c <v, sg(g)>`` for each row, whose gradient is that of the reward's loss through this step.

    Args:
        velocity: of the policy at the detached latents of the step, ``[B, ...]``.
        gradient: of the loss at the latents that were scored, ``[B, ...]``; no gradient flows into it.
        coefficient: from `Replays`; one number, or ``[B]``.

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


def refl_replays(sigmas: Tensor, step: int) -> Replays:
    """Replay one step (ReFL, arXiv 2304.05977), whose predicted clean latents ``x_j - sigma_j v_j`` are scored.

    Args:
        sigmas: noise levels, ``[T + 1]``.
        step: index j of the step, see `draw_refl_step`.

    Raises:
        ConfigError: there is no such step.
    """
    _check_steps("step", [step], sigmas)
    return Replays((step,), (-float(sigmas[step]),))


def draft_lv_replays(sigmas: Tensor, *, copies: int = 2) -> Replays:
    """Replay the last step on a sample's own latents and on copies re-noised to that level (DRaFT-LV).

    The clean latents ``x - sigma v`` predicted from each are scored, and their losses are averaged (arXiv 2309.17400).

    Args:
        sigmas: noise levels, ``[T + 1]``.
        copies: number of re-noised copies n.

    Returns:
        n + 1 replays of the last step: the sample's own, then the copies.

    Raises:
        ConfigError: the number of copies is negative.
    """
    if copies < 0:
        raise ConfigError(f"copies of DRaFT-LV must be at least 0, got {copies}")
    count, last = copies + 1, len(sigmas) - 2
    return Replays((last,) * count, (-float(sigmas[last]) / count,) * count)


def drtune_replays(sigmas: Tensor, trained: Collection[int], *, stop: int) -> Replays:
    """Replay the trained steps up to a stop (DRTune), whose predicted clean latents are scored.

    Args:
        sigmas: noise levels, ``[T + 1]``.
        trained: indices of the trained steps; those after the stop are left out.
        stop: index of the step at which sampling stops, see `draw_drtune_steps`.

    Raises:
        ConfigError: there is no such step, or no trained step up to the stop.
    """
    _check_steps("trained steps and stop", [*trained, stop], sigmas)
    steps = tuple(sorted({step for step in trained if step <= stop}))
    if not steps:
        raise ConfigError(f"DRTune needs a trained step up to stop={stop}, got {sorted(trained)}")
    levels = sigmas.tolist()
    return Replays(steps, tuple((0.0 if step == stop else levels[step + 1]) - levels[step] for step in steps))


def sparse_replays(sigmas: Tensor, active: Collection[int], *, rescale: float = 0.5) -> Replays:
    """Replay the active steps of a finished trajectory (FlowBP-Sparse, arXiv 2606.11075), whose end is scored.

    The factor of all steps, ``1 + rescale * (sum |ds| / sum over active |ds| - 1)``, makes up for part of the steps
    that are left out.

    Args:
        sigmas: noise levels, ``[T + 1]``.
        active: indices of the active steps, see `draw_sparse_steps`.
        rescale: share of the missing steps to make up for; 0 for none.

    Raises:
        ConfigError: there is no active step, no such step, or rescale is negative.
    """
    _check_steps("active steps", active, sigmas)
    if not active or not rescale >= 0:
        raise ConfigError(f"FlowBP-Sparse needs active steps and rescale >= 0, got {sorted(active)} and {rescale}")
    steps, levels = tuple(sorted(set(active))), sigmas.tolist()
    changes = [levels[step + 1] - levels[step] for step in steps]
    factor = 1.0 + rescale * ((levels[-1] - levels[0]) / sum(changes) - 1.0)
    return Replays(steps, tuple(factor * change for change in changes))


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


def _check_steps(what: str, steps: Collection[int], sigmas: Tensor) -> None:
    last = len(sigmas) - 2
    if any(not 0 <= step <= last for step in steps):
        raise ConfigError(f"{what} must be from 0 to {last}, the steps of the grid, got {sorted(steps)}")
