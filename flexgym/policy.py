"""A generator as the policy that acts in an environment."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flexgym.core.errors import ConfigError, GeneratorError
from flexgym.flow import ODE, Gaussian, NoiseScale, Window, noise_scale, transition
from flexgym.generators.base import FlowGenerator
from flexgym.types import FirstFrame, Prompt


@dataclass(frozen=True, eq=False)
class Move:
    """One denoising step of P groups.

    Attributes:
        latents: after the step, float32 ``[P, G, ...]`` on the CPU.
        log_prob: log density of the step, mean over the elements of a latent, float32 ``[P, G]``; zero where the step
            adds no noise, since there is nothing to be more or less likely.
    """

    latents: Tensor
    log_prob: Tensor


class FlowPolicy:
    """Takes one denoising step with a generator: from an observation to the next latents.

    The last step adds no noise, since no later step would remove it.

    Args:
        generator: whose velocity is followed.
        noise: how much noise a step adds.
        seed: of the noise; group i of a vector environment draws from ``seed + i``, so it gets what a policy with
            that seed gives to a single environment. None takes a random seed.
        groups_per_forward: groups in one forward of the transformer. Kernels may round differently for another number
            of rows, so what replays a step must use the same number to get the same result to the bit.
        latents_dtype: precision in which the latents of steps with noise will be kept. Such a step starts from rounded
            latents and ends on rounded ones, and its density is that of what will be kept.
    """

    def __init__(
        self,
        generator: FlowGenerator,
        noise: NoiseScale,
        *,
        seed: int | None = None,
        groups_per_forward: int = 1,
        latents_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.generator = generator
        self.noise = noise
        self.groups_per_forward = groups_per_forward
        self.latents_dtype = latents_dtype
        self._grid = generator.sigmas()
        self._window: Window | None = None
        self._seed = int(np.random.SeedSequence().generate_state(1)[0]) if seed is None else seed
        self._sources: list[torch.Generator] = []

    @classmethod
    def from_env(
        cls,
        env: gymnasium.Env | gymnasium.vector.VectorEnv,
        noise: str | NoiseScale = "flow",
        eta: float | None = None,
        *,
        seed: int | None = None,
    ) -> FlowPolicy:
        """A policy that samples with the generator of an environment.

        Args:
            env: a FlexGym environment, single or vector, wrapped or not.
            noise: ``"flow"``, ``"dance"``, ``"cps"`` or ``"ode"`` (deterministic), or a noise scale.
            eta: amount of noise; None takes the default of the scale (0.7 for ``"flow"``).
            seed: of the noise; None takes a random one.

        Raises:
            GeneratorError: when the environment has no generator.
            UnknownNameError: for an unknown noise scale.
            ConfigError: for an eta that the scale cannot have.
        """
        scale = noise if isinstance(noise, NoiseScale) else noise_scale(noise, eta=eta)
        return cls(_generator_of(env), scale, seed=seed)

    @property
    def num_steps(self) -> int:
        """Denoising steps T of an episode."""
        return len(self._grid) - 1

    def within(self, window: Window, *, seeds: Sequence[int]) -> FlowPolicy:
        """The same policy, with noise in the steps of a window alone.

        Args:
            window: the steps with noise.
            seeds: of the noise of each group.
        """
        policy = copy.copy(self)
        policy._window = window
        policy._sources = [torch.Generator().manual_seed(int(seed)) for seed in seeds]
        return policy

    def __call__(self, observation: Mapping[str, Any]) -> NDArray[np.float32]:
        """The next latents.

        Args:
            observation: of a single environment (``latents`` ``[G, ...]``) or of a vector of P (``[P, G, ...]``).
                Groups that are finished come back unchanged.

        Returns:
            float32 of the same shape as the latents.

        Raises:
            ConfigError: when a noise level is not on the generator's grid.
        """
        if not isinstance(observation["prompt"], str):
            return self.act(observation).latents.numpy()
        batch = {**observation, "prompt": (observation["prompt"],), "latents": observation["latents"][None]}
        if "first_frame" in observation:
            batch["first_frame"] = observation["first_frame"][None]
        return self.act(batch).latents[0].numpy()

    @torch.no_grad()
    def act(self, observation: Mapping[str, Any]) -> Move:
        """One step of the P groups of a vector environment, with its log density.

        Args:
            observation: ``prompt`` (P texts), ``latents`` ``[P, G, ...]``, ``sigma`` ``[P, 1]`` and, for generators
                from image to video, ``first_frame`` (uint8 ``[P, H, W, 3]``). Groups that are finished come back
                unchanged.

        Raises:
            ConfigError: when a noise level is not on the generator's grid.
        """
        prompts = _prompts(observation)
        # a copy only where a caller hands out read-only memory, which torch cannot share
        latents_PG = torch.from_numpy(np.require(observation["latents"], np.float32, "W"))
        steps = self._steps(np.asarray(observation["sigma"], np.float32).reshape(len(prompts)))
        move = Move(latents_PG.clone(), torch.zeros(latents_PG.shape[:2]))
        for step in sorted(set(steps) - {self.num_steps}):
            groups = [group for group, at in enumerate(steps) if at == step]
            for start in range(0, len(groups), self.groups_per_forward):
                chunk = groups[start : start + self.groups_per_forward]
                rows = slice(chunk[0], chunk[-1] + 1) if chunk == list(range(chunk[0], chunk[-1] + 1)) else chunk
                self._move(move, rows, [prompts[group] for group in chunk], groups=chunk, step=step)
        return move

    def _move(
        self, move: Move, rows: slice | list[int], prompts: Sequence[str | Prompt], *, groups: Sequence[int], step: int
    ) -> None:
        """Take one step of the given groups in place."""
        before = move.latents[rows]
        noise = ODE() if self.noise.to_clean else self._noise_at(step)
        if isinstance(noise, ODE):
            mean = self._gaussian(before, prompts, step, noise=noise).mean
            move.latents[rows] = mean.cpu().view(before.shape)
            return
        gaussian = self._gaussian(self._rounded(before), prompts, step, noise=noise)
        draws = torch.stack([torch.randn(before.shape[1:], generator=self._source(group)) for group in groups])
        after = self._rounded(gaussian.sample(draws.flatten(0, 1).to(gaussian.mean.device)))
        move.latents[rows] = after.cpu().view(before.shape)
        move.log_prob[rows] = gaussian.log_prob(after).cpu().view(before.shape[:2])

    @torch.no_grad()
    def noised(self, clean_PG: Tensor, prompts: Sequence[str | Prompt], step: int) -> Move:
        """Finished latents with fresh noise on them, at the level of one step; see `flexgym.flow.Matching`.

        Args:
            clean_PG: finished latents, float32 ``[P, G, ...]``.
            prompts: P texts, or prompts with first frames.
            step: whose noise level, 0 is the first.

        Returns:
            The noised latents, with the log density of the finished ones given them; of both as they will be kept.
        """
        clean_PG = self._rounded(clean_PG)
        noise = torch.stack([torch.randn(clean.shape, generator=self._source(at)) for at, clean in enumerate(clean_PG)])
        sigma = self._grid[step]
        latents = self._rounded((1.0 - sigma) * clean_PG + sigma * noise)
        log_prob = [
            self.transition(latents[rows], prompts[rows], step).log_prob(clean_PG[rows].flatten(0, 1).to(self._device))
            for rows in _chunks(len(prompts), self.groups_per_forward)
        ]
        return Move(latents, torch.cat(log_prob).cpu().view(clean_PG.shape[:2]))

    def transition(self, latents_PG: Tensor, prompts: Sequence[str | Prompt], step: int) -> Gaussian:
        """The distribution that is trained at one step; rollout and replay both call this.

        Args:
            latents_PG: before the step, ``[P, G, ...]``, in the precision they were kept in.
            prompts: P texts, or prompts with first frames.
            step: which one, 0 is the first.

        Returns:
            Mean ``[P * G, ...]`` on the generator's device, with gradients to what trains, and deviation: of the
            latents after the step, or of the clean ones with `flexgym.flow.Matching`.
        """
        return self._gaussian(latents_PG, prompts, step, noise=self._noise_at(step))

    def _gaussian(
        self, latents_PG: Tensor, prompts: Sequence[str | Prompt], step: int, *, noise: NoiseScale
    ) -> Gaussian:
        rows = latents_PG.shape[0] * latents_PG.shape[1]
        latents = latents_PG.flatten(0, 1).to(self._device, torch.float32)
        sigma, sigma_next = (self._grid[at].to(self._device).expand(rows) for at in (step, step + 1))
        after = torch.zeros_like(sigma) if noise.to_clean else sigma_next
        conditioning = self.generator.condition(prompts).repeat(latents_PG.shape[1])
        velocity = self.generator.velocity(latents, sigma, conditioning)
        return transition(latents, velocity, sigma, sigma_next=after, noise=noise, sigma_max=float(self._grid[1]))

    def _rounded(self, latents: Tensor) -> Tensor:
        """Float32 numbers that `latents_dtype` holds exactly."""
        return latents.to(self.latents_dtype).float()

    @property
    def _device(self) -> torch.device:
        return self.generator.device

    def _noise_at(self, step: int) -> NoiseScale:
        inside = self._window is None or step in self._window
        return self.noise if inside and (step < self.num_steps - 1 or self.noise.to_clean) else ODE()

    def _steps(self, sigma: NDArray[np.float32]) -> list[int]:
        found = sigma[:, None] == self._grid.numpy()[None]
        if not found.any(axis=1).all():
            raise ConfigError(
                f"noise level {sigma[~found.any(axis=1)][0]!r} is not on the generator's grid of {self.num_steps}"
                " steps: make the policy with FlowPolicy.from_env from the environment that it acts in"
            )
        return [int(step) for step in found.argmax(axis=1)]

    def _source(self, group: int) -> torch.Generator:
        while len(self._sources) <= group:
            self._sources.append(torch.Generator().manual_seed(self._seed + len(self._sources)))
        return self._sources[group]


def _prompts(observation: Mapping[str, Any]) -> list[str | Prompt]:
    """The prompts of an observation of P groups, with their first frames where it has them."""
    texts = observation["prompt"]
    if "first_frame" not in observation:
        return list(texts)
    frames = observation["first_frame"]
    return [Prompt(text, first_frame=FirstFrame(frame)) for text, frame in zip(texts, frames, strict=True)]


def _chunks(count: int, size: int) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]


def _generator_of(env: gymnasium.Env | gymnasium.vector.VectorEnv) -> FlowGenerator:
    base = env.unwrapped
    found = getattr(base, "generator", None)
    if found is None and isinstance(base, gymnasium.vector.SyncVectorEnv):
        found = getattr(base.envs[0].unwrapped, "generator", None)
    if not isinstance(found, FlowGenerator):
        raise GeneratorError(f"expected a FlexGym environment, whose generator a policy needs; got {env}")
    return found
