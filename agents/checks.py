"""Recipes checked to the last setting: those of rewards, environments and prompts included."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

import rewards
from envs.checking import check_arguments
from envs.prompts import load_prompts
from flexgym.config.load import load_settings
from flexgym.core.settings import Settings
from flexgym.environment import environment_modality

S = TypeVar("S", bound=Settings)
GIVEN = ("generator", "num_envs", "autoreset_mode", "tensors")
"""Arguments of environments that follow from other settings in every recipe."""


def load_checked(kind: type[S], recipe: Mapping[str, Any], *, given: Collection[str] = ()) -> S:
    """Return the settings of a recipe, see `flexgym.config.load.load_settings`, before anything is loaded.

    Args:
        kind: such as `flexgym.config.AgentSettings`.
        recipe: sections by name.
        given: arguments of the environment that follow from other settings, beside `GIVEN`.

    Raises:
        ConfigError: settings that cannot work, each with the place where it was written.
        UnknownNameError: names that do not exist, each with the nearest valid one.
    """

    def check_environment(env: str, settings: Mapping[str, Any]) -> None:
        environment_modality(env)
        check_arguments(env, settings, given=(*GIVEN, *given))

    return load_settings(
        kind,
        recipe,
        check_reward=rewards.check,
        check_environment=check_environment,
        check_prompts=lambda prompts: load_prompts(prompts, "image"),
    )
