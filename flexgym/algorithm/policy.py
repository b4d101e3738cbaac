"""A generator as the policy that acts in an environment."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flexgym.algorithm.process import Levels, Move, Process, SamplerSteps
from flexgym.core.errors import ConfigError, GeneratorError
from flexgym.core.precision import autocast
from flexgym.core.seeds import checked_seed, whole_seed
from flexgym.flow import ODE, Gaussian, NoiseScale, Solver, Steps, dpm_step, noise_scale, predicted_clean
from flexgym.generators.base import FlowGenerator
from flexgym.generators.conditioning import Conditioning
from flexgym.types import FirstFrame, Prompt

_ODE = SamplerSteps(ODE())


class FlowPolicy:
    """Take denoising steps with a generator: from an observation to the next latents.

    The last step adds no noise, since no later step would remove it.

    Args:
        generator: whose velocity is followed.
        process: how samples are made for training; a noise scale is short for `SamplerSteps` with that noise.
        seed: of the noise; group i of a vector environment draws from ``seed + i``, so it gets what a policy with
            that seed gives to a single environment. None takes a random seed.
        groups_per_forward: groups in one forward of the transformer. Kernels may round differently for another number
            of rows, so replaying a step must use the same number to get the same result to the bit.
        latents_dtype: precision in which the latents of trained steps will be kept. Such a step starts from rounded
            latents and ends on rounded ones, and its density is that of what will be kept.
        guidance: guidance scale while acting; None takes the generator's setting.
        solver: of the steps that are not trained, while acting `within` a window; see `flexgym.flow.dpm_step`. It
            begins anew after a step with noise.
        compute_dtype: precision of the arithmetic of steps that are not trained, under autocast; None for that of the
            weights.

    Attributes:
        num_steps: denoising steps T of an episode.
    """

    def __init__(
        self,
        generator: FlowGenerator,
        process: Process | NoiseScale,
        *,
        seed: int | None = None,
        groups_per_forward: int = 1,
        latents_dtype: torch.dtype = torch.float32,
        guidance: float | None = None,
        solver: Solver = "euler",
        compute_dtype: torch.dtype | None = None,
    ) -> None:
        self.generator = generator
        self.process = SamplerSteps(process) if isinstance(process, NoiseScale) else process
        self.groups_per_forward = groups_per_forward
        self.latents_dtype = latents_dtype
        self.guidance = guidance
        self.solver = solver
        self.compute_dtype = compute_dtype
        self._grid = generator.sigmas()
        self.num_steps = len(self._grid) - 1
        self._levels: dict[tuple[int, int, torch.device], Levels] = {}
        self._window: Steps | None = None
        self._clean: dict[int, dict[int, Tensor]] = {}
        chosen = checked_seed(seed)
        self._seed = int(np.random.SeedSequence().generate_state(1)[0]) if chosen is None else chosen
        self._sources: list[torch.Generator] = []
        self._encoded: tuple[Any, Conditioning] | None = None

    @classmethod
    def from_env(
        cls,
        env: gymnasium.Env | gymnasium.vector.VectorEnv,
        noise: str | NoiseScale = "flow",
        eta: float | None = None,
        *,
        seed: int | None = None,
    ) -> FlowPolicy:
        """Make a policy that samples with the generator of an environment.

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

    def within(self, window: Steps, *, seeds: Sequence[int]) -> FlowPolicy:
        """Return this policy with noise in the steps of a window alone.

        Args:
            window: the steps with noise.
            seeds: of the noise of each group.
        """
        policy = copy.copy(self)
        policy._window, policy._clean = window, {}
        policy._sources = [torch.Generator().manual_seed(whole_seed(seed)) for seed in seeds]
        return policy

    # --- acting ------------------------------------------------------------------------------------------------------

    def __call__(self, observation: Mapping[str, Any]) -> NDArray[np.float32]:
        """Return the next latents.

        Args:
            observation: of a single environment (``latents`` ``[G, ...]``) or of a vector of P (``[P, G, ...]``).
                Groups that are finished come back unchanged.

        Returns:
            float32 of the same shape as the latents.

        Raises:
            ConfigError: when a noise level is not on the generator's grid.
        """
        if not isinstance(observation["prompt"], str):
            return self.act(observation).latents.cpu().numpy()
        batch = {**observation, "prompt": (observation["prompt"],), "latents": observation["latents"][None]}
        if "first_frame" in observation:
            batch["first_frame"] = observation["first_frame"][None]
        return self.act(batch).latents[0].cpu().numpy()

    @torch.no_grad()
    def act(self, observation: Mapping[str, Any]) -> Move:
        """Take one step of the P groups of a vector environment, with its log density.

        Args:
            observation: ``prompt`` (P texts), ``latents`` ``[P, G, ...]`` (an array, or a tensor on any device),
                ``sigma`` ``[P, 1]`` and, for generators from image to video, ``first_frame`` (uint8
                ``[P, H, W, 3]``). Groups that are finished come back unchanged.

        Returns:
            The move, on the generator's device.

        Raises:
            ConfigError: when a noise level is not on the generator's grid.
        """
        prompts = _prompts(observation)
        latents_PG = _tensor(observation["latents"]).to(self.generator.device)
        steps = self._steps(observation["sigma"], len(prompts))
        if len(prompts) <= self.groups_per_forward and steps[0] < self.num_steps and len(set(steps)) == 1:
            return self._move(latents_PG, prompts, range(len(prompts)), step=steps[0])
        move = Move(latents_PG, latents_PG.clone(), latents_PG.new_zeros(latents_PG.shape[:2]), latents_PG.clone())
        for step in sorted(set(steps) - {self.num_steps}):
            groups = [group for group, at in enumerate(steps) if at == step]
            for start in range(0, len(groups), self.groups_per_forward):
                self._move_some(move, prompts, groups[start : start + self.groups_per_forward], step=step)
        return move

    def _move_some(self, move: Move, prompts: Sequence[str | Prompt], groups: list[int], *, step: int) -> None:
        """Take one step of some of the groups, in place."""
        part = self._move(move.before[groups], [prompts[group] for group in groups], groups, step=step)
        move.latents[groups], move.log_prob[groups], move.mean[groups] = part.latents, part.log_prob, part.mean

    def _move(self, latents_PG: Tensor, prompts: Sequence[str | Prompt], groups: Sequence[int], *, step: int) -> Move:
        """Take one step of groups that are in the same forward."""
        levels = self.levels(step, latents_PG.shape[0] * latents_PG.shape[1], latents_PG.device)
        if not self._adds_noise(step):
            after = self._without_noise(latents_PG, prompts, groups, step=step, levels=levels)
            return Move(latents_PG, after, latents_PG.new_zeros(latents_PG.shape[:2]), after)
        rounds = self.latents_dtype != torch.float32
        before = self._rounded(latents_PG) if rounds else latents_PG
        gaussian = self._gaussian(self.process, before, prompts, levels=levels)
        after = gaussian.sample(self._noise(groups, before.shape[1:]).to(before.device))
        after = self._rounded(after) if rounds else after
        log_prob = gaussian.log_prob(after).view(before.shape[:2])
        return Move(before, after.view(before.shape), log_prob, gaussian.mean.view(before.shape))

    def _without_noise(
        self, latents_PG: Tensor, prompts: Sequence[str | Prompt], groups: Sequence[int], *, step: int, levels: Levels
    ) -> Tensor:
        """Return the latents after a step that adds no noise, ``[P, G, ...]``."""
        rows, plain = latents_PG.flatten(0, 1), self.solver == "euler" and self.compute_dtype is None
        free = not plain and self._is_free(step)
        conditioning = self._conditioning(prompts, latents_PG, self.guidance)  # kept for replays, so never cast
        with autocast(rows.device, self.compute_dtype) if free else nullcontext():
            velocity = self.generator.velocity(rows, levels.sigma, conditioning, guidance=self.guidance)
        if self.solver == "euler" or not free:
            return _ODE.gaussian(rows, velocity, levels).mean.view(latents_PG.shape)
        clean_PG = predicted_clean(rows, velocity, levels.sigma).view(latents_PG.shape)
        near = self._grid[[max(0, step - 1), step, step + 1]].tolist()
        steps = [
            dpm_step(latents, clean, self._remember(group, step, clean), levels=near)
            for group, latents, clean in zip(groups, latents_PG, clean_PG, strict=True)
        ]
        return torch.stack(steps)

    def _is_free(self, step: int) -> bool:
        """Return whether training does not depend on how a step without noise is taken."""
        return self._window is not None and self.process.is_free(step, self._window)

    def _remember(self, group: int, step: int, clean: Tensor) -> Tensor | None:
        """Keep the prediction of a step of the solver, and return that of the step before if it was one as well."""
        before = self._clean.get(group, {}).get(step - 1)
        # the one before stays, so that the same step can be taken again
        self._clean[group] = {step: clean} if before is None else {step - 1: before, step: clean}
        return before

    # --- distributions -----------------------------------------------------------------------------------------------

    def transition(
        self, latents_PG: Tensor, prompts: Sequence[str | Prompt], step: int, *, guidance: float | None = None
    ) -> Gaussian:
        """Return the distribution that is trained at one step of the sampler.

        Args:
            latents_PG: before the step, ``[P, G, ...]``, in the precision they were kept in.
            prompts: P texts, or prompts with first frames.
            step: which one, 0 is the first.
            guidance: guidance scale; None takes that of the policy.

        Returns:
            Mean ``[P * G, ...]`` on the generator's device, with gradients to the trainable parameters, and std
            ``[P * G]``: of the latents after the step, or of the clean ones with `ForwardProcess`.
        """
        latents_PG = latents_PG.to(self.generator.device, torch.float32)
        levels = self.levels(step, latents_PG.shape[0] * latents_PG.shape[1], latents_PG.device)
        process = self.process if self._trains(step) else _ODE
        return self._gaussian(process, latents_PG, prompts, levels=levels, guidance=guidance)

    def distribution(
        self, latents: Tensor, prompts: Sequence[str | Prompt], levels: Levels, *, guidance: float | None = None
    ) -> Gaussian:
        """Return the trained distribution at several noise levels.

        Levels of the forward process share one forward. Those of the sampler take one each, with as many rows as in the
        rollout: kernels may round differently for another number, and ratios would not begin at one to the bit.

        Args:
            latents: ``[L, P, G, ...]``, in the precision they were kept in.
            prompts: P texts, or prompts with first frames.
            levels: noise levels of all ``L * P * G`` rows.
            guidance: guidance scale; None takes that of the policy.

        Returns:
            Mean ``[L * P * G, ...]`` on the generator's device, with gradients to the trainable parameters, and std
            ``[L * P * G]``.
        """
        moved = latents.to(self.generator.device, torch.float32)
        together = 1 if isinstance(self.process, SamplerSteps) else len(moved)
        parts = [
            self._gaussian(self.process, some.flatten(0, 1), list(prompts) * len(some), levels=level, guidance=guidance)
            for some, level in zip(moved.split(together), levels.split(len(moved) // together), strict=True)
        ]
        return Gaussian(torch.cat([part.mean for part in parts]), torch.cat([part.std for part in parts]))

    @property
    def grid(self) -> Tensor:
        """Noise levels of the sampler, ``[T + 1]``."""
        return self._grid

    def levels(self, step: int, rows: int, device: torch.device) -> Levels:
        """Return the noise levels of one step for a number of rows, on a device."""
        key = (step, rows, device)
        if key not in self._levels:
            before, after = self._grid[step : step + 2].to(key[2])
            self._levels[key] = Levels(before.expand(rows), after.expand(rows), sigma_max=float(self._grid[1]))
        return self._levels[key]

    def _gaussian(
        self,
        process: Process,
        latents_PG: Tensor,
        prompts: Sequence[str | Prompt],
        *,
        levels: Levels,
        guidance: float | None = None,
    ) -> Gaussian:
        latents = latents_PG.flatten(0, 1)
        scale = self.guidance if guidance is None else guidance
        conditioning = self._conditioning(prompts, latents_PG, scale)
        velocity = self.generator.velocity(latents, levels.sigma, conditioning, guidance=scale)
        return process.gaussian(latents, velocity, levels)

    def _conditioning(
        self, prompts: Sequence[str | Prompt], latents_PG: Tensor, guidance: float | None
    ) -> Conditioning:
        """Return one row per sample; encoded once for as long as the prompts stay the same."""
        group_size = latents_PG.shape[1]
        key = (tuple(prompts), group_size, guidance, latents_PG.device)
        if self._encoded is None or self._encoded[0] != key:
            self._encoded = (key, self.generator.condition(prompts, guidance=guidance).repeat(group_size))
        return self._encoded[1]

    def _adds_noise(self, step: int) -> bool:
        """Return whether a step adds noise while acting."""
        inside = self._window is None or step in self._window
        return inside and step < self.num_steps - 1 and not isinstance(self.process.noise, ODE)

    def _trains(self, step: int) -> bool:
        """Return whether a step has a trained distribution; others are ODE steps."""
        return (self._window is None or step in self._window) and self.process.trains(step, self.num_steps)

    def _rounded(self, latents: Tensor) -> Tensor:
        """Round to float32 numbers that `latents_dtype` holds exactly."""
        return latents.to(self.latents_dtype).float()

    def _steps(self, sigma: Any, groups: int) -> list[int]:
        """Return the step that each group takes next."""
        found = np.asarray(sigma, np.float32).reshape(groups, 1) == self._grid.numpy()[None]
        if not found.any(axis=1).all():
            missing = np.asarray(sigma).reshape(groups)[~found.any(axis=1)][0]
            raise ConfigError(
                f"noise level {missing!r} is not on the generator's grid of {self.num_steps} steps: make the policy"
                " with FlowPolicy.from_env from the environment that it acts in"
            )
        steps: list[int] = found.argmax(axis=1).tolist()
        return steps

    def _noise(self, groups: Sequence[int], shape: Sequence[int]) -> Tensor:
        """Draw standard normal noise on the CPU, each group from its own source: ``[P * G, ...]``."""
        while len(self._sources) <= max(groups):
            self._sources.append(torch.Generator().manual_seed(self._seed + len(self._sources)))
        return torch.cat([torch.randn(shape, generator=self._sources[group]) for group in groups])


def _tensor(latents: Any) -> Tensor:
    """Return latents as a float32 tensor; a copy only where the memory is read-only, which torch cannot share."""
    if isinstance(latents, Tensor):
        return latents
    return torch.from_numpy(np.require(latents, np.float32, "W"))


def _prompts(observation: Mapping[str, Any]) -> Sequence[str | Prompt]:
    """Return the prompts of an observation of P groups, with their first frames where it has them."""
    texts = observation["prompt"]
    if "first_frame" not in observation:
        return texts
    frames = observation["first_frame"]
    return [Prompt(text, first_frame=FirstFrame(frame)) for text, frame in zip(texts, frames, strict=True)]


def _generator_of(env: gymnasium.Env | gymnasium.vector.VectorEnv) -> FlowGenerator:
    base = env.unwrapped
    found = getattr(base, "generator", None)
    if found is None and isinstance(base, gymnasium.vector.SyncVectorEnv):
        found = getattr(base.envs[0].unwrapped, "generator", None)
    if found is None and isinstance(base, gymnasium.vector.AsyncVectorEnv):
        # its environments live in other processes: one more is made here, which has the generator that they share
        found = getattr(base.env_fns[0]().unwrapped, "generator", None)
    if not isinstance(found, FlowGenerator):
        raise GeneratorError(f"expected a FlexGym environment, whose generator a policy needs; got {env}")
    return found
