"""Checks that a pipeline can serve as a flow policy, and that it can make samples of a size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flexgym.core.errors import ConfigError, GeneratorError
from flexgym.generators.schedulers import check_scheduler

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def check_parts(pipe: DiffusionPipeline) -> None:
    """Reject a pipeline without a component that every flow policy needs.

    Args:
        pipe: the loaded pipeline.

    Raises:
        GeneratorError: it has no transformer, autoencoder or scheduler, or a scheduler that is not flow matching.
    """
    for part in ("transformer", "vae", "scheduler"):
        if getattr(pipe, part, None) is None:
            raise GeneratorError(f"{type(pipe).__name__} has no {part}: expected a flow-matching transformer pipeline")
    check_scheduler(type(pipe.scheduler).__name__, pipe.scheduler.config)


def check_side(name: str, value: int, multiple: int) -> None:
    """Reject a height or width that is not a multiple of a number.

    Args:
        name: ``"height"`` or ``"width"``, for the message.
        value: in pixels.
        multiple: what it must be divisible by.

    Raises:
        ConfigError: naming the nearest values.
    """
    if value % multiple:
        below = value - value % multiple
        raise ConfigError(
            f"{name} must be a multiple of {multiple}, got {value}; the nearest are {below} and {below + multiple}"
        )


def check_frames(num_frames: int, multiple: int, *, cut: int) -> None:
    """Reject a number of frames that no latents decode to.

    Args:
        num_frames: number of frames.
        multiple: frames per latent frame after the first.
        cut: frames at the start that are no part of the sample.

    Raises:
        ConfigError: naming the nearest values.
    """
    if (num_frames - 1) % multiple:
        below = max(num_frames - 1 - (num_frames - 1) % multiple, cut) + 1
        raise ConfigError(
            f"num_frames must be 1 more than a multiple of {multiple}, got {num_frames};"
            f" the nearest are {below} and {below + multiple}"
        )
    if num_frames <= cut:
        raise ConfigError(
            f"num_frames counts {cut} frames at the start that this pipeline cuts off: expected at least {cut + 1},"
            f" got {num_frames}"
        )
