"""Noise levels and time steps of a family, as its pipeline takes them from the scheduler."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from flexgym.core.errors import GeneratorError
from flexgym.flow.sigmas import sigma_grid, timed_scheduler
from flexgym.generators.family import Family


def noise_levels(family: Family) -> Tensor:
    """Compute the noise levels of a run, ``[T + 1]`` float32 on the CPU, from 1 to 0.

    Args:
        family: how the pipeline samples.

    Raises:
        GeneratorError: the pipeline cannot set the time steps of its scheduler, or rollouts cannot follow them.
    """
    return sigma_grid(family.pipe.scheduler, family.settings.num_steps, **_request(family))


def timed_solver(family: Family) -> Any:
    """Copy the scheduler of a pipeline, ready for the first step of a run on the transformer's device.

    Args:
        family: how the pipeline samples.
    """
    scheduler = timed_scheduler(
        family.pipe.scheduler, family.settings.num_steps, **_request(family), device=family.device
    )
    scheduler.set_begin_index(0)
    return scheduler


def time_steps(family: Family, sigma: Tensor) -> Tensor:
    """Convert noise levels to time steps of the scheduler: thousandths with ``num_train_timesteps=1000``.

    Args:
        family: how the pipeline samples.
        sigma: noise levels.

    Returns:
        A tensor like ``sigma``.
    """
    return sigma * float(family.pipe.scheduler.config.num_train_timesteps)


def _request(family: Family) -> dict[str, Any]:
    """Return what the pipeline passes to ``set_timesteps``."""
    shift = {"image_seq_len": family.image_seq_len(), "mu": family.shift_mu()}
    if family.pipe.scheduler.config.get("use_dynamic_shifting") and set(shift.values()) == {None}:
        raise GeneratorError(
            f"expected use_dynamic_shifting=False in the config of {type(family.pipe.scheduler).__name__}, got True:"
            f" {family.name} never shifts its noise levels by size"
        )
    return {**shift, "spacing": family.spacing}
