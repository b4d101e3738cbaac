"""Rolling a policy through a vector environment, and what is kept of it for training."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from torch import Tensor

from flexgym.core.errors import ConfigError
from flexgym.flow import ODE, Window, transition
from flexgym.types import Prompt, SampleGroup

if TYPE_CHECKING:
    from flexgym.generators import FlowGenerator
    from flexgym.policy import FlowPolicy


@dataclass(frozen=True, eq=False)
class Rollout:
    """P finished groups and, for the trained steps of the window, what the policy did.

    With `flexgym.flow.Matching` the trained steps are made from the finished samples: from noised to clean latents.

    Attributes:
        prompts: P of them.
        samples: uint8 ``[P, G, H, W, 3]`` or ``[P, G, F, H, W, 3]``.
        window: the W trained steps.
        latents: before each trained step, ``[W, P, G, ...]`` in the `FlowPolicy.latents_dtype` of the policy: it acted
            from these very numbers, so that replay is exact.
        next_latents: after it, of the same shape and precision.
        log_prob: log density of the step under the policy that took it, float32 ``[W, P, G]``.
        seconds: wall time of the denoising steps and decoding.
    """

    prompts: tuple[Prompt, ...]
    samples: NDArray[np.uint8]
    window: Window
    latents: Tensor
    next_latents: Tensor
    log_prob: Tensor
    seconds: float = 0.0

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def group_size(self) -> int:
        """Samples G of a group."""
        return self.samples.shape[1]

    @property
    def groups(self) -> list[SampleGroup]:
        """The finished groups as a reward takes them."""
        return [SampleGroup(prompt, samples) for prompt, samples in zip(self.prompts, self.samples, strict=True)]

    def select(self, rows: slice) -> Rollout:
        """Some of the groups."""
        return replace(
            self,
            prompts=self.prompts[rows],
            samples=self.samples[rows],
            latents=self.latents[:, rows],
            next_latents=self.next_latents[:, rows],
            log_prob=self.log_prob[:, rows],
        )


def concatenate(rollouts: Sequence[Rollout]) -> Rollout:
    """The groups of several rollouts of the same window, in order."""
    if len({rollout.window for rollout in rollouts}) != 1:
        raise ConfigError(f"expected rollouts of one window, got {[rollout.window for rollout in rollouts]}")
    return replace(
        rollouts[0],
        prompts=tuple(prompt for rollout in rollouts for prompt in rollout.prompts),
        samples=np.concatenate([rollout.samples for rollout in rollouts]),
        latents=torch.cat([rollout.latents for rollout in rollouts], 1),
        next_latents=torch.cat([rollout.next_latents for rollout in rollouts], 1),
        log_prob=torch.cat([rollout.log_prob for rollout in rollouts], 1),
        seconds=max(rollout.seconds for rollout in rollouts),
    )


def collect(envs: VectorEnv, policy: FlowPolicy, window: Window, *, seeds: Sequence[int]) -> Rollout:
    """One episode of every group.

    Args:
        envs: a FlexGym vector environment of P groups, all of the same number of steps.
        policy: acts with noise inside the window and without outside; never with any, if trained by matching.
        window: the steps that are trained.
        seeds: P seeds; each decides the prompt, the first latents and the noise of its group, whatever the others are.

    Returns:
        What happened.
    """
    started = time.perf_counter()
    acting = policy.within(window, seeds=seeds)
    observation, infos = envs.reset(seed=list(seeds))  # type: ignore[arg-type]  # one for each, as SyncVectorEnv
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    for step in range(policy.num_steps):
        move = acting.act(observation)
        if step in window and not policy.noise.to_clean:
            kept.append((torch.from_numpy(observation["latents"]), move.latents, move.log_prob))
        observation, _, _, _, infos = envs.step(move.latents.numpy())
    if policy.noise.to_clean:
        clean, prompts = move.latents, list(infos["prompt"])
        for noised in (acting.noised(clean, prompts, step) for step in window.steps):
            kept.append((noised.latents, clean, noised.log_prob))
    latents, next_latents, log_prob = (torch.stack(parts) for parts in zip(*kept, strict=True))
    return Rollout(
        prompts=tuple(infos["prompt"]),
        samples=np.stack(list(infos["samples"])),
        window=window,
        latents=latents.to(policy.latents_dtype),
        next_latents=next_latents.to(policy.latents_dtype),
        log_prob=log_prob,
        seconds=time.perf_counter() - started,
    )


def sample(
    generator: FlowGenerator, prompts: Sequence[str | Prompt], *, seeds: Sequence[int], max_rows: int = 64
) -> NDArray[np.uint8]:
    """One deterministic sample for each prompt, as evaluation wants them.

    Args:
        generator: whose velocity is followed, without noise.
        prompts: N texts, or prompts with first frames for generators from image to video.
        seeds: N seeds of the first latents; a sample depends on its own seed alone.
        max_rows: latents in one forward at most.

    Returns:
        uint8 ``[N, H, W, 3]`` or ``[N, F, H, W, 3]``.
    """
    parts = []
    for start in range(0, len(prompts), max_rows):
        rows = slice(start, start + max_rows)
        latents = torch.cat([generator.initial_latents(1, seed) for seed in seeds[rows]])
        latents = generator.starting_latents(latents, prompts[rows])
        parts.append(generator.decode(_denoise(generator, latents, prompts[rows])))
    return np.concatenate(parts)


@torch.no_grad()
def _denoise(generator: FlowGenerator, latents: Tensor, prompts: Sequence[str | Prompt]) -> Tensor:
    sigmas, conditioning = generator.sigmas().to(latents.device), generator.condition(prompts)
    for sigma, sigma_next in pairwise(sigmas):
        level, after = sigma.expand(len(latents)), sigma_next.expand(len(latents))
        velocity = generator.velocity(latents, level, conditioning)
        latents = transition(latents, velocity, level, sigma_next=after, noise=ODE()).mean
    return generator.with_first_frame(latents, conditioning)
