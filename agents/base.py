"""What every agent's config adds to FlexGym's: rewards by name, and the prompts of the environments."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import rewards
from envs.prompts import load_prompts
from flexgym.core.errors import ConfigError
from flexgym.reward import Reward
from flexgym.rllib.config import FlowAlgorithmConfig
from flexgym.types import Prompt
from rewards.named import watched_reward


class AgentConfig(FlowAlgorithmConfig):
    """A config whose rewards are those of the package `rewards`."""

    def make_reward(self) -> Reward:
        """The reward that is optimised.

        Raises:
            UnknownNameError: for an unknown name, with the nearest valid one.
        """
        self._find_modules()
        written = {} if self.failed_samples is None else {"failed_samples": self.failed_samples}
        return rewards.make(self.reward_name, **{**written, **self.reward_settings})

    def make_monitors(self) -> dict[str, Reward]:
        """The rewards that are only watched, by name."""
        self._find_modules()
        return {watched.title: watched.make() for watched in map(watched_reward, self.monitors)}

    def make_evaluations(self) -> dict[str, Reward]:
        """The rewards that score held-out samples and are never optimised, by name."""
        return {watched.title: watched.make() for watched in map(watched_reward, self.verification_rewards)}

    def make_verifier(self) -> Reward | None:
        """The reward that verifies; None without one."""
        return rewards.make(self.verification_reward) if self.verification_reward else None

    def opened_prompts(self, prompts: Any) -> list[Prompt]:
        """The prompts of a source as the environment opens it.

        Raises:
            PromptSourceError: when they cannot be read.
        """
        return list(load_prompts(prompts, self.modality))

    def _find_modules(self) -> None:
        """Let a process that Ray started find modules where the one that started training does, as a last resort."""
        sys.path.extend(path for path in self.import_paths if path not in sys.path)

    def validate(self) -> None:
        """Check the rewards and their settings besides what `FlowAlgorithmConfig.validate` checks."""
        super().validate()
        self.import_paths = self.import_paths or tuple(str(Path(path).resolve()) for path in sys.path)
        rewards.check(self.reward_name, self.reward_settings)
        if self.verification_reward:
            rewards.check(self.verification_reward, {})
        for section, entries in (
            ("reward.monitors", self.monitors),
            ("verification.rewards", self.verification_rewards),
        ):
            titles = [watched_reward(entry).title for entry in entries]
            if len(set(titles)) < len(titles):
                raise ConfigError(f"{section}: expected a name of its own for each reward, got {titles}")
