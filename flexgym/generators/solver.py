"""Steps of a pipeline's own scheduler with a generator's velocity: to the bit those of the pipeline's ``__call__``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flexgym.generators.conditioning import KNOWN, Conditioning
from flexgym.generators.family import Family
from flexgym.generators.levels import timed_solver
from flexgym.generators.velocity import predict

if TYPE_CHECKING:
    from flexgym.generators.base import FlowGenerator


def solver_steps(
    generator: FlowGenerator,
    latents: Tensor,
    conditioning: Conditioning,
    *,
    guidance: float | None = None,
    sources: Sequence[torch.Generator] = (),
) -> Iterator[Tensor]:
    """Denoise with the solver of the pipeline, such as UniPC, in the pipeline's own precision.

    A copy of the scheduler takes the steps, at its own time steps, which UniPC and DPM-Solver++ round down to whole
    numbers. Rollouts take Euler steps at exact ones instead.

    Args:
        generator: whose velocity is followed.
        latents: to start from, ``[B, ...]``.
        conditioning: B rows.
        guidance: guidance scale; None takes the generator's setting.
        sources: B sources of the noise of stochastic solvers, on the CPU, one for each row; without any, the global
            source of torch is used, as by the pipeline.

    Yields:
        The latents after each step, ``[B, ...]``, in the precision of the pipeline's own.
    """
    family = generator.family if guidance is None else generator.family.guided_by(guidance)
    scheduler = timed_solver(family)
    precision = torch.float32 if family.full_precision is True else family.dtype
    options = _noise_options(scheduler, sources)
    latents = latents.to(torch.float32 if family.full_precision else family.dtype)
    for time in scheduler.timesteps:
        times = time.to(latents.device, torch.float32).expand(len(latents))
        with torch.no_grad():
            velocity = predict(family, latents, times, conditioning=conditioning, held=latents.dtype).to(precision)
            step = partial(_step, scheduler=scheduler, time=time, options=options)
            latents = _advance(family, latents, velocity, known=conditioning.images.get(KNOWN), step=step)
        yield latents


def _noise_options(scheduler: Any, sources: Sequence[torch.Generator]) -> dict[str, Any]:
    """Return the arguments that give each row its own source of noise, where the steps of a scheduler may be noisy."""
    takes_source = "generator" in inspect.signature(scheduler.step).parameters
    return {"generator": list(sources)} if sources and takes_source else {}


def _step(velocity: Tensor, latents: Tensor, *, scheduler: Any, time: Tensor, options: Mapping[str, Any]) -> Tensor:
    following: Tensor = scheduler.step(velocity, time, latents, **options, return_dict=False)[0]
    return following


def _advance(
    family: Family, latents: Tensor, velocity: Tensor, *, known: Tensor | None, step: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Take one step on the tensors that ``__call__`` gives to the scheduler, whose shape decides the noise drawn."""
    if known is None or family.steps_known:
        return family.unpack(step(family.pack(velocity), family.pack(latents)))
    frames = known.shape[2]
    return torch.cat([latents[:, :, :frames], step(velocity[:, :, frames:], latents[:, :, frames:])], 2)
