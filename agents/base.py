"""What every agent's config adds to FlexGym's: rewards by name, and the prompts of the environments."""

from __future__ import annotations

import rewards
from envs.prompts import load_prompts
from flexgym.rllib.config import FlowAlgorithmConfig
from rewards.base import Reward
from rewards.registry import reward_class


class AgentConfig(FlowAlgorithmConfig):
    """A config whose rewards are those of the package `rewards`."""

    def make_reward(self) -> Reward:
        """The reward that is optimised.

        Raises:
            UnknownNameError: for an unknown name, with the nearest valid one.
        """
        return rewards.make(self.reward_name, **self.reward_settings)

    def make_monitors(self) -> dict[str, Reward]:
        """The rewards that are only watched, by name."""
        return {name: rewards.make(name) for name in self.monitors}

    def make_verifier(self) -> Reward | None:
        """The reward that verifies; None without one."""
        return rewards.make(self.verification_reward) if self.verification_reward else None

    def training_prompts(self) -> list[str]:
        """The prompts that the environment draws from.

        Raises:
            PromptSourceError: when they cannot be read.
        """
        return [prompt.text for prompt in load_prompts(self.prompts, self.modality)]

    def validate(self) -> None:
        """Check the names of rewards besides what `FlowAlgorithmConfig.validate` checks."""
        super().validate()
        for name in (
            self.reward_name,
            *self.monitors,
            *([self.verification_reward] if self.verification_reward else []),
        ):
            reward_class(name)
