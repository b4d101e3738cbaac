"""Rewards as they stand in a recipe: a name, and settings beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flexgym.core.errors import ConfigError
from flexgym.core.options import built_settings
from rewards.base import Reward, build
from rewards.registry import reward_class


@dataclass(frozen=True)
class NamedReward:
    """A reward to be made.

    Attributes:
        reward: its name, the path of a class of your own, or a reward that is built already.
        name: what it is called in info and metrics; the reward's own name by default.
        settings: of the reward, where it is named, ``deadline_s`` and ``failed_samples`` among them.

    Raises:
        ConfigError: settings for a reward that is built already.
        UnknownNameError: no such reward; the message holds the nearest one.
    """

    reward: str | Reward
    name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.reward, Reward) and self.settings:
            raise ConfigError(f"settings of {self.title!r}: its reward is built already, so it takes none")
        if not isinstance(self.reward, Reward):
            reward_class(self.reward)

    @property
    def title(self) -> str:
        """Its name; by default the reward's."""
        named = self.reward.name if isinstance(self.reward, Reward) else reward_class(self.reward).name
        return self.name or named

    def make(self) -> Reward:
        """The reward."""
        return self.reward if isinstance(self.reward, Reward) else build(reward_class(self.reward), self.settings)


def watched_reward(entry: str | Mapping[str, Any]) -> NamedReward:
    """A reward that is only watched, from a recipe.

    Args:
        entry: a name, which is then also what it is called, or fields of `NamedReward` by name.
    """
    if isinstance(entry, str):
        return NamedReward(entry, name=entry)
    return built_settings("watched reward", NamedReward, entry)
