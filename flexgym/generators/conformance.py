"""Samples of a generator and of its pipeline's own call from the same noise, to be compared number by number."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from flexgym.flow import ODE, transition
from flexgym.generators.sampling import call_arguments
from flexgym.types import Prompt

if TYPE_CHECKING:
    from flexgym.generators.base import FlowGenerator


@dataclass(frozen=True, eq=False)
class Run:
    """Samples of one prompt.

    Attributes:
        latents: after each step, as the transformer takes them, float32 ``[T, B, ...]``; with the first frame in its
            place where it is known, see `FlowGenerator.with_first_frame`.
        samples: uint8 ``[B, H, W, 3]`` or ``[B, F, H, W, 3]``.
    """

    latents: Tensor
    samples: NDArray[np.uint8]


def own_run(generator: FlowGenerator, noise: Tensor, prompt: str | Prompt) -> Run:
    """Sample with the generator's velocity.

    In float32 the step is that of `flexgym.flow`. In a lower precision it is that of the pipeline's scheduler, which
    rounds each step and the latents after it; FlexGym itself keeps latents in float32.

    Args:
        generator: whose velocity is followed.
        noise: latents to start from, ``[B, ...]``.
        prompt: of all rows.

    Returns:
        The latents of every step and the samples.
    """
    conditioning = generator.condition([prompt]).repeat(len(noise))
    lower = generator.dtype != torch.float32
    step = _scheduler_step(generator) if lower else _euler
    latents = generator.starting_latents(noise, [prompt] * len(noise))
    path, grid = [], generator.sigmas().to(noise.device)
    with torch.no_grad():
        for sigma, sigma_next in zip(grid[:-1], grid[1:], strict=True):
            level = sigma.expand(len(noise))
            velocity = generator.velocity(latents, level, conditioning)
            latents = step(latents, velocity, (sigma, sigma_next))
            latents = generator.with_first_frame(latents, conditioning)
            path.append(generator.family.pack(latents))
    return Run(torch.stack(path), generator.decode(latents))


def pipeline_run(generator: FlowGenerator, noise: Tensor, prompt: str | Prompt) -> Run:
    """Sample with the ``__call__`` of the generator's pipeline; arguments as those of `own_run`."""
    conditioning = generator.condition([prompt]).repeat(len(noise))
    path: list[Tensor] = []

    def keep(latents: Tensor) -> dict[str, Any]:
        """Record the latents and change nothing."""
        unpacked = generator.family.unpack(latents.float()).view(noise.shape)
        path.append(generator.family.pack(generator.with_first_frame(unpacked, conditioning)))
        return {}

    images = generator.text.images([prompt])[0]
    copies = (1, len(noise)) if generator.family.call_groups else (len(noise), 1)
    offered = {
        **call_arguments(generator.settings, generator.family.call_names),
        "num_images_per_prompt": copies[1],
        "num_videos_per_prompt": copies[1],
        "negative_prompt": [generator.settings.negative_prompt or ""] * copies[0] if generator.family.guided else None,
        "callback_on_step_end": lambda *state: keep(state[-1]["latents"]),
        "prompt": [prompt if isinstance(prompt, str) else prompt.text] * copies[0],
        **generator.family.call_inputs(
            {role: Image.fromarray(image.pixels) for role, image in images.items()}, conditioning
        ),
    }
    taken = inspect.signature(generator.pipe.__call__).parameters
    generator.family.prepare_call()
    with contextlib.nullcontext() if "callback_on_step_end" in taken else _watched(generator.pipe.scheduler, keep):
        samples = generator.pipe(
            latents=generator.family.call_latents(generator.with_first_frame(noise.clone(), conditioning)),
            output_type="pil",
            return_dict=False,
            **{name: value for name, value in offered.items() if name in taken},
            **generator.family.call_options,
        )[0]
    stacked = [np.stack([np.asarray(frame) for frame in sample]) if isinstance(sample, list) else np.asarray(sample)
               for sample in samples]  # fmt: skip
    return Run(torch.stack(path), np.stack(stacked))


@contextlib.contextmanager
def _watched(scheduler: Any, keep: Callable[[Tensor], Any]) -> Iterator[None]:
    """Record the latents after each step inside this context, for pipelines without callbacks."""
    own = scheduler.step

    def step(*args: Any, **kwargs: Any) -> Any:
        found = own(*args, **kwargs)
        keep(found[0])
        return found

    scheduler.step = step
    try:
        yield
    finally:
        del scheduler.step


def _euler(latents: Tensor, velocity: Tensor, levels: tuple[Tensor, Tensor]) -> Tensor:
    sigma, sigma_next = (level.expand(len(latents)) for level in levels)
    return transition(latents, velocity, sigma, sigma_next=sigma_next, noise=ODE()).mean


def _scheduler_step(generator: FlowGenerator) -> Callable[[Tensor, Tensor, tuple[Tensor, Tensor]], Tensor]:
    """Return the step of a copy of the pipeline's scheduler."""
    scheduler = copy.deepcopy(generator.pipe.scheduler)
    scheduler.sigmas = generator.sigmas().to(generator.device)
    scheduler.timesteps = scheduler.sigmas[:-1] * 1000.0
    scheduler._step_index = None
    scheduler.set_begin_index(0)
    kind = torch.float32 if generator.family.full_precision else generator.dtype

    def step(latents: Tensor, velocity: Tensor, levels: tuple[Tensor, Tensor]) -> Tensor:
        return scheduler.step(velocity.to(kind), levels[0] * 1000.0, latents, return_dict=False)[0].float()

    return step
