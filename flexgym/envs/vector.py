"""The vector environment: several groups in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from flexgym.core.errors import ConfigError, unknown_name
from flexgym.core.seeds import checked_seed
from flexgym.envs.groups import RENDER_MODES, GroupAccess, check_options, check_render_mode
from flexgym.envs.prompts import Prompts
from flexgym.generators.base import FlowGenerator

Infos = dict[str, Any]


class GroupVectorEnv(GroupAccess, gymnasium.vector.VectorEnv):
    """P groups in one batch; what comes out is to the bit what P single environments in a `SyncVectorEnv` give.

    Args:
        num_envs: groups P.
        generator: see `flexgym.envs.single.GroupEnv`, as for the arguments that follow.
        group_size: samples G of each group.
        prompts: what to generate for.
        preview: whether the infos of each step hold samples.
        render_mode: ``"rgb_array"`` or None.
        autoreset_mode: what happens after the end of an episode, an `AutoresetMode` or its value.
        tensors: whether observations hold latents as a tensor on the generator's device, which saves two copies
            between device and host at each step. Actions may then be tensors, which the caller must not write to.
        settings: of sampling.

    Attributes:
        generator: whose latents these are.

    Raises:
        UnknownNameError: for an unknown argument or mode, with the nearest valid one.
        ConfigError: for fewer than 1 group, or what the single environment rejects.
    """

    metadata: dict[str, Any] = {"render_modes": RENDER_MODES, "render_fps": 8}

    def __init__(
        self,
        num_envs: int = 1,
        generator: str | Path | FlowGenerator | None = None,
        *,
        group_size: int = 8,
        prompts: Prompts = None,
        preview: bool = False,
        render_mode: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        tensors: bool = False,
        **settings: Any,
    ) -> None:
        if num_envs < 1:
            raise ConfigError(f"num_envs must be at least 1, got {num_envs}")
        check_render_mode(render_mode)
        self.num_envs, self.render_mode = num_envs, render_mode
        self.autoreset_mode = _autoreset_mode(autoreset_mode)
        self.metadata = {**type(self).metadata, "autoreset_mode": self.autoreset_mode}
        groups = self._open(
            generator,
            settings,
            prompts=prompts,
            group_size=group_size,
            num_groups=num_envs,
            preview=preview,
            tensors=tensors,
        )
        self.single_observation_space, self.single_action_space = groups.observation_space(), groups.action_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._rngs: list[np.random.Generator] = []
        self._seeds: list[int] = []
        self._ended = np.zeros(num_envs, dtype=np.bool_)

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The random generator of each group."""
        self._seed([None] * self.num_envs)
        return tuple(self._rngs)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of each group's random generator."""
        self._seed([None] * self.num_envs)
        return tuple(self._seeds)

    def _seed(self, seeds: list[int | None]) -> None:
        """Seed the groups that get a seed, and those that never had one."""
        for slot, seed in enumerate(seeds):
            if slot == len(self._rngs):
                self._rngs.append(np.random.default_rng(0))
                self._seeds.append(0)
            elif seed is None:
                continue
            self._rngs[slot], self._seeds[slot] = seeding.np_random(seed)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, Infos]:
        """Begin groups of noise.

        Args:
            seed: of each group, or of the first; group i then gets ``seed + i``. Whole numbers of Python or NumPy.
            options: ``{"prompt": ...}`` picks the prompt of all groups, or of each when it is a list of P;
                ``{"reset_mask": ...}`` (bool ``[P]``) leaves the other groups as they are.

        Returns:
            Observations and infos.

        Raises:
            UnknownNameError: for an unknown option.
            ConfigError: for a wrong number of seeds or prompts, a seed that is no whole number of at least 0, or a mask
                that selects nothing.
            PromptSourceError: when a prompt cannot be used.
        """
        chosen = check_options(options, ["prompt", "reset_mask"])
        prompts = self._each(chosen.get("prompt"), "prompts")
        mask = self._mask(chosen.get("reset_mask"))
        every = self._seeds_of(seed)
        slots = np.flatnonzero(mask).tolist()
        self._seed([every[slot] if mask[slot] else None for slot in range(self.num_envs)])
        self._groups.begin(slots, self._rngs, prompts)
        self._ended = self._ended & ~mask
        infos: Infos = {}
        for slot in slots:
            infos = self._add_info(infos, self._groups.info(slot), slot)
        return self._groups.observation(), infos

    def _seeds_of(self, seed: Any) -> list[int | None]:
        """Return the seed of each group: those of a sequence, or consecutive ones from a single number."""
        if isinstance(seed, list | tuple | np.ndarray):
            return [checked_seed(each, "each seed") for each in self._each(list(seed), "seeds")]
        first = checked_seed(seed)
        return [None if first is None else first + slot for slot in range(self.num_envs)]

    def _each(self, value: Any, kind: str) -> list[Any]:
        """Return one value for each group: those of a list, or the same for all."""
        if not isinstance(value, list | tuple):
            return [value] * self.num_envs
        if len(value) != self.num_envs:
            raise ConfigError(f"expected {self.num_envs} {kind}, one for each group, got {len(value)}")
        return list(value)

    def _mask(self, mask: Any) -> NDArray[np.bool_]:
        if mask is None:
            return np.ones(self.num_envs, dtype=np.bool_)
        chosen = np.asarray(mask)
        if chosen.shape != (self.num_envs,) or chosen.dtype != np.bool_ or not chosen.any():
            raise ConfigError(f"reset_mask must be bool [{self.num_envs}] with at least one True, got {mask!r}")
        return chosen

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[Any, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], Infos]:
        """Move the groups to their next latents; ended ones begin anew as the autoreset mode says.

        Args:
            actions: float32 ``[P, G, *latent_shape]``; with mode NEXT_STEP those of ended groups are ignored.

        Returns:
            Observations, rewards of 0 ``[P]``, terminations ``[P]``, truncations ``[P]`` and infos.

        Raises:
            ActionError: for latents of another shape or not finite, or (mode DISABLED) after the end; nothing has
                changed then.
        """
        again = self._ended if self.autoreset_mode == AutoresetMode.NEXT_STEP else np.zeros_like(self._ended)
        self._groups.advance(actions, ~again)
        self._begin(again)
        terminated = self._groups.finished
        infos = self._infos_after_step(terminated)
        if self.autoreset_mode == AutoresetMode.SAME_STEP:
            self._begin(terminated)
            for slot in np.flatnonzero(terminated).tolist():
                infos = self._add_info(infos, self._groups.info(slot), slot)
        else:
            self._ended = terminated
        no = np.zeros(self.num_envs, dtype=np.bool_)
        return self._groups.observation(), np.zeros(self.num_envs), terminated.copy(), no, infos

    def _begin(self, mask: NDArray[np.bool_]) -> None:
        if mask.any():
            self._groups.begin(np.flatnonzero(mask).tolist(), self._rngs, [None] * self.num_envs)

    def _infos_after_step(self, terminated: NDArray[np.bool_]) -> Infos:
        shared = None if terminated.any() else self._groups.shared_infos()
        if shared is not None:
            return shared
        infos: Infos = {}
        for slot in range(self.num_envs):
            infos = self._add_info(infos, self._after_step(slot), slot)
        return infos

    def _after_step(self, slot: int) -> Infos:
        """Return the infos of a group before it may begin anew within the same step."""
        info = self._groups.info(slot)
        if self.autoreset_mode == AutoresetMode.SAME_STEP and self._groups.finished[slot]:
            return {"final_obs": self._groups.observation_of(slot), "final_info": info}
        return info

    def show_rewards(self, rewards: NDArray[np.float32]) -> None:
        """Let `render` write rewards ``[P, G]`` under the samples of finished groups (NaN: not scored)."""
        for slot, row in enumerate(rewards):
            self._groups.show_rewards(slot, row)

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:  # type: ignore[override]
        """Draw each group as a labeled grid, uint8 ``[height, width, 3]``; of videos the next frame at each call.

        Returns:
            P grids; None without ``render_mode="rgb_array"``.
        """
        if self.render_mode is None:
            gymnasium.logger.warn(f"make {self.name} with render_mode='rgb_array' to render it")
            return None
        frame = self._groups.next_frame()
        return tuple(self._groups.picture(slot, frame) for slot in range(self.num_envs))


def _autoreset_mode(mode: AutoresetMode | str) -> AutoresetMode:
    known = {member.value: member for member in AutoresetMode}
    if isinstance(mode, AutoresetMode):
        return mode
    if mode not in known:
        raise unknown_name("autoreset_mode", str(mode), known)
    return known[mode]
