"""Rolling a policy through a vector environment, and what is kept of it for training."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice, pairwise
from typing import Any

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from torch import Tensor

from flexgym.algorithm.kept import Rollout
from flexgym.algorithm.policy import FlowPolicy
from flexgym.algorithm.process import Move
from flexgym.core.errors import ConfigError
from flexgym.flow import ODE, Steps, transition
from flexgym.generators.base import FlowGenerator
from flexgym.generators.conditioning import Conditioning
from flexgym.generators.sampling import Sampler
from flexgym.generators.schedulers import own_solver
from flexgym.generators.solver import solver_steps
from flexgym.generators.weights import REFERENCE
from flexgym.types import Prompt

KEPT = ("latents", "target")
"""What a rollout keeps in any case, as far as its process does."""
AS_SAMPLED = ("old_log_prob", "old_mean")
"""What a rollout can keep besides: log density and mean under the weights that sampled."""


def collect(
    envs: VectorEnv, policy: FlowPolicy, window: Steps, *, seeds: Sequence[int], keep: Collection[str] = AS_SAMPLED
) -> Rollout:
    """Run one episode of every group.

    Args:
        envs: a FlexGym vector environment of P groups, all of the same number of steps.
        policy: acts with noise inside the window and without outside.
        window: the steps that are trained.
        seeds: P seeds; each decides the prompt, the first latents and the noise of its group, whatever the others are.
        keep: which of `AS_SAMPLED` to keep, where the process computes them while sampling.

    Returns:
        What happened.
    """
    started = time.perf_counter()
    acting = policy.within(window, seeds=seeds)
    moves, infos = _play(
        envs, acting, seeds, records=lambda step: policy.process.records(step, window, policy.num_steps)
    )
    names = {name for name in policy.process.keeps if name in KEPT or name in keep}
    return Rollout(
        prompts=tuple(infos["prompt"]),
        samples=np.stack(list(infos["samples"])),
        window=window,
        kept=_kept(moves, names, policy.latents_dtype),
        seeds=tuple(int(seed) for seed in seeds),
        seconds=time.perf_counter() - started,
    )


def samples_of(envs: VectorEnv, policy: FlowPolicy, window: Steps, *, seeds: Sequence[int]) -> NDArray[np.uint8]:
    """Run one episode of every group as `collect` does, and return only the samples.

    Args:
        envs: as for `collect`.
        policy: as for `collect`.
        window: as for `collect`; its steps have noise.
        seeds: as for `collect`.

    Returns:
        uint8 ``[P, G, H, W, 3]`` or ``[P, G, F, H, W, 3]``.
    """
    _, infos = _play(envs, policy.within(window, seeds=seeds), seeds, records=lambda step: False)
    return np.stack(list(infos["samples"]))


def _play(
    envs: VectorEnv, acting: FlowPolicy, seeds: Sequence[int], *, records: Callable[[int], bool]
) -> tuple[list[Move], dict[str, Any]]:
    """Run one episode; return the moves of the steps that are recorded, and the last infos."""
    observation, infos = envs.reset(seed=list(seeds))  # type: ignore[arg-type]  # one for each, as SyncVectorEnv
    as_action: Callable[[Tensor], object] = _unchanged if isinstance(observation["latents"], Tensor) else _as_array
    moves = []
    for step in range(acting.num_steps):
        move = acting.act(observation)
        if records(step):
            moves.append(move)
        observation, _, _, _, infos = envs.step(as_action(move.latents))
    return moves, infos


def _unchanged(latents: Tensor) -> Tensor:
    return latents


def _as_array(latents: Tensor) -> NDArray[np.float32]:
    return latents.cpu().numpy()


def _kept(moves: Sequence[Move], names: Collection[str], dtype: torch.dtype) -> dict[str, Tensor]:
    """Stack the fields of moves in host memory: latents in a given precision, what belongs to densities in float32."""
    fields = {"latents": "before", "target": "latents", "old_log_prob": "log_prob", "old_mean": "mean"}
    return {
        name: _stacked([getattr(move, field) for move in moves], dtype if name in KEPT else torch.float32)
        for name, field in fields.items()
        if name in names
    }


def _stacked(levels: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.stack(list(levels)).to("cpu", dtype)


def sample(
    generator: FlowGenerator,
    prompts: Sequence[str | Prompt],
    *,
    seeds: Sequence[int],
    max_rows: int = 64,
    guidance: float | None = None,
    sampler: Sampler | None = None,
    trained_share: float = 1.0,
) -> NDArray[np.uint8]:
    """Make one sample for each prompt that follows from its seed, as evaluation wants them.

    Args:
        generator: whose velocity is followed.
        prompts: N texts, or prompts with first frames for generators from image to video.
        seeds: N seeds of the first latents, and then of the noise of stochastic solvers; a sample depends on its own
            seed alone.
        max_rows: largest number of latents in one forward.
        guidance: guidance scale; None takes the generator's setting.
        sampler: ``"rollout"`` takes the Euler steps of rollouts without noise, on float32 latents; ``"pipeline"`` those
            of the pipeline's own scheduler, equal to its ``__call__`` to the bit, in its precision. None is for
            pipelines where the two are the same.
        trained_share: share of the steps, from the noisiest on, that the weights in use take; the reference takes the
            others, a remedy against reward hacking of MixGRPO (arXiv 2507.21802).

    Returns:
        uint8 ``[N, H, W, 3]`` or ``[N, F, H, W, 3]``.

    Raises:
        ConfigError: no sampler is given, and the pipeline's own solver does not take Euler steps.
    """
    solver = own_solver(generator.pipe.scheduler)
    if sampler is None and solver:
        raise ConfigError(
            f"this pipeline samples with {solver}, rollouts take Euler steps on its noise levels: pass"
            " sampler='pipeline' or sampler='rollout'"
        )
    parts = []
    for start in range(0, len(prompts), max_rows):
        rows = slice(start, start + max_rows)
        sources = [torch.Generator().manual_seed(seed) for seed in seeds[rows]]
        latents = torch.cat([generator.initial_latents(1, source) for source in sources])
        latents = generator.starting_latents(latents, prompts[rows])
        conditioning = generator.condition(prompts[rows], guidance=guidance)
        if sampler == "pipeline":
            steps = solver_steps(generator, latents, conditioning, guidance=guidance, sources=sources)
        else:
            steps = _euler_steps(generator, latents, conditioning, guidance=guidance)
        latents = _last(steps, generator, trained_share)
        parts.append(generator.decode(generator.with_first_frame(latents.float(), conditioning)))
    return np.concatenate(parts)


def _euler_steps(
    generator: FlowGenerator, latents: Tensor, conditioning: Conditioning, *, guidance: float | None
) -> Iterator[Tensor]:
    """Yield the latents after each step."""
    for sigma, sigma_next in pairwise(generator.sigmas().to(latents.device)):
        level, after = sigma.expand(len(latents)), sigma_next.expand(len(latents))
        with torch.no_grad():
            velocity = generator.velocity(latents, level, conditioning, guidance=guidance)
            latents = transition(latents, velocity, level, sigma_next=after, noise=ODE()).mean
        yield latents


def _last(steps: Iterator[Tensor], generator: FlowGenerator, trained_share: float) -> Tensor:
    """Take all steps, those after the trained share with the reference, and return the last latents."""
    if trained_share == 1.0:
        return deque(steps, maxlen=1)[0]
    trained = round(trained_share * (len(generator.sigmas()) - 1))
    taken = deque(islice(steps, trained), maxlen=1)
    with generator.weights.using(REFERENCE):
        taken.extend(steps)
    return taken[0]
