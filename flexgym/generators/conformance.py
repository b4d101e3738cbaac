"""Samples of a generator and of its pipeline's own call from the same noise, to be compared number by number."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from flexgym.flow import ODE, transition
from flexgym.generators.conditioning import Conditioning
from flexgym.generators.sampling import call_arguments
from flexgym.generators.schedulers import own_solver
from flexgym.generators.solver import solver_steps
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

    In float32 the step of a pipeline with Euler steps is that of `flexgym.flow`. In a lower precision, and with another
    solver, it is that of the pipeline's scheduler, see `flexgym.generators.solver`.

    Args:
        generator: whose velocity is followed.
        noise: latents to start from, ``[B, ...]``.
        prompt: of all rows.

    Returns:
        The latents of every step and the samples.
    """
    conditioning = generator.condition([prompt]).repeat(len(noise))
    latents = generator.starting_latents(noise, [prompt] * len(noise))
    exact = generator.dtype == torch.float32 and not own_solver(generator.pipe.scheduler)
    steps = (_euler_steps if exact else solver_steps)(generator, latents, conditioning)
    path = []
    for stepped in steps:
        latents = generator.with_first_frame(stepped.float(), conditioning)
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


@torch.no_grad()
def _euler_steps(generator: FlowGenerator, latents: Tensor, conditioning: Conditioning) -> Iterator[Tensor]:
    for sigma, sigma_next in pairwise(generator.sigmas().to(latents.device)):
        level, after = sigma.expand(len(latents)), sigma_next.expand(len(latents))
        velocity = generator.velocity(latents, level, conditioning)
        latents = transition(latents, velocity, level, sigma_next=after, noise=ODE()).mean
        yield latents
