"""Rewards as a recipe names them: a name with settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flexgym.core.errors import ConfigError
from flexgym.reward import Reward, build
from flexgym.reward import check as check_settings
from flexgym.rewards.registry import reward_class


@dataclass(frozen=True)
class NamedReward:
    """A reward to be built. Its settings are validated at once, see `flexgym.reward.check`.

    Attributes:
        reward: name of the reward, the path of a class of your own, or a reward that is already built.
        name: name in info and metrics; by default the reward's own.
        settings: settings of a named reward, also those of every reward, see `flexgym.reward.build`.

    Raises:
        ConfigError: for settings that cannot work, or any for a reward that is already built.
        UnknownNameError: for an unknown reward or setting; the message names the nearest one.
    """

    reward: str | Reward
    name: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.reward, Reward):
            check_settings(reward_class(self.reward), self.settings)
        elif self.settings:
            raise ConfigError(f"settings of {self.title!r}: its reward is built already, so it takes none")

    @property
    def title(self) -> str:
        """The given name, or else the reward's own."""
        named = self.reward.name if isinstance(self.reward, Reward) else reward_class(self.reward).name
        return self.name or named

    @property
    def processes(self) -> int:
        """Number of processes that the reward starts."""
        if isinstance(self.reward, Reward):
            return type(self.reward).processes({"own_process": self.reward.own_process})
        return reward_class(self.reward).processes(self.settings)

    def make(self) -> Reward:
        """Return the given reward, or build it from its name and settings."""
        return self.reward if isinstance(self.reward, Reward) else build(reward_class(self.reward), self.settings)
