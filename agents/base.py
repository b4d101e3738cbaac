"""What the agents share: rewards, prompts and environments by name, for the layers below."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym

import rewards
from envs.prompts import load_prompts
from flexgym.config import WrapperSettings
from flexgym.types import Prompt
from rewards.base import Reward

MODALITIES = {"FlexT2I-v0": "image", "FlexT2V-v0": "video"}


def _search_path() -> tuple[str, ...]:
    return tuple(str(Path(path).resolve()) for path in sys.path)


@dataclass(frozen=True)
class AgentComponents:
    """Rewards of the package `rewards`, prompts of the environments, and wrappers by path.

    Attributes:
        search_path: folders in which a process that Ray started looks for modules last: those of the process that
            started training.
    """

    search_path: tuple[str, ...] = field(default_factory=_search_path)

    def make_reward(self, name: str, settings: Mapping[str, Any]) -> Reward:
        """Make a reward by name.

        Raises:
            UnknownNameError: no such reward or setting; the message names the nearest one.
        """
        self._find_modules()
        return rewards.make(name, **settings)

    def open_prompts(self, source: Any, modality: str) -> list[Prompt]:
        """Open prompts as an environment does.

        Raises:
            PromptSourceError: they cannot be read.
        """
        return list(load_prompts(source, modality))

    def modality(self, env: str) -> str:
        """Return ``"image"`` or ``"video"`` for the id of an environment."""
        return MODALITIES.get(env, "image")

    def wrap(self, envs: gym.vector.VectorEnv, wrappers: Sequence[WrapperSettings]) -> gym.vector.VectorEnv:
        """Put the wrappers that a recipe names around a vector environment, the innermost first."""
        self._find_modules()
        for each in wrappers:
            module, _, name = each.wrapper.partition(":")
            envs = getattr(importlib.import_module(module), name)(envs, **each.settings)
        return envs

    def _find_modules(self) -> None:
        sys.path.extend(path for path in self.search_path if path not in sys.path)
