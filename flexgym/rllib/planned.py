"""A recipe that is only read: its settings are checked as those of a training are, and nothing is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from flexgym.core.errors import ConfigError
from flexgym.rllib.algorithm import FlowAlgorithm
from flexgym.rllib.config import FlowAlgorithmConfig
from flexgym.rllib.recipe import apply_recipe
from flexgym.runs.recipe import Recipe
from flexgym.types import Prompt

if TYPE_CHECKING:
    from flexgym.reward import Reward


class PlannedConfig(FlowAlgorithmConfig):
    """The settings of any flow algorithm, without its rewards."""

    def make_reward(self) -> Reward:
        """Refused.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("a plan makes no reward: train with the agent itself, such as python -m agents.pref_grpo")

    def opened_prompts(self, prompts: Any) -> list[Prompt]:
        """None: a plan reads no prompts."""
        return []

    def make_monitors(self) -> dict[str, Reward]:
        """None of them."""
        return {}

    def make_evaluations(self) -> dict[str, Reward]:
        """None of them."""
        return {}

    def make_verifier(self) -> None:
        """None."""


def planned_config(recipe: Mapping[str, Any]) -> PlannedConfig:
    """The checked settings of a recipe.

    Args:
        recipe: sections by name.

    Raises:
        ConfigError: settings that cannot work.
        UnknownNameError: a section or key that does not exist.
    """
    source, origins = getattr(recipe, "source", "recipe"), getattr(recipe, "origins", {})
    kept = {name: values for name, values in recipe.items() if name != "run"}
    config = apply_recipe(PlannedConfig(FlowAlgorithm), Recipe(kept, source=source, origins=origins))
    config.validate()
    return config
