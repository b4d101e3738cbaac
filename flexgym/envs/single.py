"""The single environment: one group for one prompt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from flexgym.core.seeds import checked_seed
from flexgym.envs.groups import RENDER_MODES, GroupAccess, check_options, check_render_mode
from flexgym.envs.prompts import Prompts
from flexgym.generators.base import FlowGenerator

_ONLY = np.ones(1, dtype=np.bool_)


class GroupEnv(GroupAccess, gymnasium.Env):
    """The denoising decision process of DDPO (arXiv 2305.13301) over a group of G samples for one prompt.

    The observation is the prompt, the latents of the group and their noise level; the action is the group's next
    latents. After T steps the episode terminates and ``info["samples"]`` holds the decoded group: uint8
    ``[G, H, W, 3]`` or ``[G, F, H, W, 3]``. ``info["prompt"]`` is always the `flexgym.types.Prompt`. The reward is 0;
    reward wrappers say how good a group is. With a generator from image to video the observation also holds
    ``first_frame``, uint8 ``[H, W, 3]``: the image of the prompt at the size of the samples.

    Args:
        generator: to share, or a folder or hub id to load; None for the embedded one.
        group_size: samples G, at least 2.
        prompts: None for the built-in set, a ``.txt`` or ``.jsonl`` file, or a sequence.
        preview: let ``info["samples"]`` of each step show the group as it is expected to become.
        render_mode: ``"rgb_array"`` or None.
        settings: of sampling (num_steps, guidance_scale, height, width, for videos num_frames, ...); they override
            those of the generator.

    Attributes:
        generator: whose latents these are.

    Raises:
        UnknownNameError: for an unknown argument, with the nearest valid one.
        ConfigError: for a group of fewer than 2, or a setting that cannot work.
        PromptSourceError: when the prompts cannot be used.
        CheckpointError: when the generator cannot be loaded.
        GeneratorError: when it is not of the right kind.
    """

    metadata: dict[str, Any] = {"render_modes": RENDER_MODES, "render_fps": 8}
    _spec: EnvSpec | None = None

    def __init__(
        self,
        generator: str | Path | FlowGenerator | None = None,
        *,
        group_size: int = 8,
        prompts: Prompts = None,
        preview: bool = False,
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        check_render_mode(render_mode)
        self.render_mode = render_mode
        # a vector of single environments writes into it
        self.metadata = dict(type(self).metadata)
        groups = self._open(generator, settings, prompts=prompts, group_size=group_size, num_groups=1, preview=preview)
        self.observation_space, self.action_space = groups.observation_space(), groups.action_space()

    @property
    def spec(self) -> EnvSpec | None:
        """Specification that `gymnasium.make` made the environment from, with its number of steps.

        ``max_episode_steps`` is one more than the steps after which an episode terminates: wrappers that need a bound
        find one, and an environment made from the specification is never truncated.
        """
        return self._spec

    @spec.setter
    def spec(self, spec: EnvSpec | None) -> None:
        self._spec = None if spec is None else replace(spec, max_episode_steps=self._groups.episode_length + 1)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begin a group of noise for a prompt.

        Args:
            seed: of the latents and the drawn prompt: a whole number of Python or NumPy, of at least 0.
            options: ``{"prompt": ...}`` picks the prompt: a text or a `flexgym.types.Prompt`.

        Returns:
            Observation and info.

        Raises:
            UnknownNameError: for an unknown option.
            PromptSourceError: when the prompt cannot be used.
            ConfigError: when it has a first frame and the generator takes none, or the other way round, or the seed is
                no whole number of at least 0.
        """
        chosen = check_options(options, ["prompt"])
        super().reset(seed=checked_seed(seed))
        self._groups.begin([0], [self.np_random], [chosen.get("prompt")])
        return self._groups.observation_of(0), self._groups.info(0)

    def step(self, action: NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Move the group to its next latents.

        Args:
            action: float32 ``[G, *latent_shape]``.

        Returns:
            Observation, 0, whether this was the last step, False, and info.

        Raises:
            ActionError: for latents of another shape or not finite, or after the end; the group is unchanged then.
        """
        self._groups.advance(np.asarray(action)[None], _ONLY)
        return self._groups.observation_of(0), 0.0, bool(self._groups.finished[0]), False, self._groups.info(0)

    def show_rewards(self, rewards: NDArray[np.float32]) -> None:
        """Let `render` write rewards ``[G]`` under the samples of the finished group (NaN: not scored)."""
        self._groups.show_rewards(0, rewards)

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]
        """Draw the group as a labeled grid, uint8 ``[height, width, 3]``; of videos the next frame at each call.

        Returns:
            The grid; None without ``render_mode="rgb_array"``.
        """
        if self.render_mode is None:
            gymnasium.logger.warn(f"make {self.name} with render_mode='rgb_array' to render it")
            return None
        return self._groups.picture(0, self._groups.next_frame())
