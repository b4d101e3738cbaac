"""Does an adapter sample as its pipeline does? Both are run from the same noise and compared number by number."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flexgym.flow import ODE, transition
from flexgym.generators.sampling import call_arguments

if TYPE_CHECKING:
    from flexgym.generators.base import FlowGenerator


@dataclass(frozen=True, eq=False)
class Run:
    """Samples of one prompt.

    Attributes:
        latents: after each step, as the transformer takes them, float32 ``[T, B, ...]``.
        samples: uint8 ``[B, H, W, 3]`` or ``[B, F, H, W, 3]``.
    """

    latents: Tensor
    samples: NDArray[np.uint8]


def own_run(generator: FlowGenerator, noise: Tensor, prompt: str) -> Run:
    """Sample with the generator's velocity.

    In float32 the step is that of `flexgym.flow`. In a lower precision it is that of the pipeline's scheduler, which
    rounds each step and the latents after it; FlexGym itself keeps latents in float32.

    Args:
        generator: whose velocity is followed.
        noise: latents to start from, ``[B, ...]``.
        prompt: of all rows.

    Returns:
        What came of it.
    """
    conditioning = generator.condition([prompt]).repeat(len(noise))
    lower = generator.dtype != torch.float32
    step = _scheduler_step(generator) if lower else _euler
    latents, path, grid = noise, [], generator.sigmas().to(noise.device)
    with torch.no_grad():
        for sigma, sigma_next in zip(grid[:-1], grid[1:], strict=True):
            level = sigma.expand(len(noise))
            velocity = generator.velocity(latents, level, conditioning)
            latents = step(latents, velocity, (sigma, sigma_next))
            path.append(generator.pack(latents))
    return Run(torch.stack(path), generator.decode(latents))


def pipeline_run(generator: FlowGenerator, noise: Tensor, prompt: str) -> Run:
    """Sample with the ``__call__`` of the generator's pipeline; arguments as those of `own_run`."""
    path: list[Tensor] = []

    def keep(*state: Any) -> dict[str, Any]:
        """The last of a pipeline, a step, a time step and tensors by name."""
        path.append(state[-1]["latents"].float())
        return {}

    taken = inspect.signature(generator.pipe.__call__).parameters
    offered = {
        **call_arguments(generator.settings, generator.call_names),
        "num_images_per_prompt": len(noise),
        "num_videos_per_prompt": len(noise),
        "negative_prompt": "" if generator.guided else None,
    }
    samples = generator.pipe(
        prompt=[prompt],
        latents=generator.call_latents(noise.clone()),
        output_type="pil",
        callback_on_step_end=keep,
        return_dict=False,
        **{name: value for name, value in offered.items() if name in taken},
        **generator.call_options,
    )[0]
    stacked = [np.stack([np.asarray(frame) for frame in sample]) if isinstance(sample, list) else np.asarray(sample)
               for sample in samples]  # fmt: skip
    return Run(torch.stack(path), np.stack(stacked))


def _euler(latents: Tensor, velocity: Tensor, levels: tuple[Tensor, Tensor]) -> Tensor:
    sigma, sigma_next = (level.expand(len(latents)) for level in levels)
    return transition(latents, velocity, sigma, sigma_next=sigma_next, noise=ODE()).mean


def _scheduler_step(generator: FlowGenerator) -> Callable[[Tensor, Tensor, tuple[Tensor, Tensor]], Tensor]:
    """The step of a copy of the pipeline's scheduler."""
    scheduler = copy.deepcopy(generator.pipe.scheduler)
    scheduler.sigmas = generator.sigmas().to(generator.device)
    scheduler.timesteps = scheduler.sigmas[:-1] * 1000.0
    scheduler._step_index = None
    scheduler.set_begin_index(0)
    kind = torch.float32 if generator.full_precision else generator.dtype

    def step(latents: Tensor, velocity: Tensor, levels: tuple[Tensor, Tensor]) -> Tensor:
        return scheduler.step(velocity.to(kind), levels[0] * 1000.0, latents, return_dict=False)[0].float()

    return step
