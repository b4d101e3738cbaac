"""Recipes checked to the last setting: those of rewards, environments and prompts included."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from flexgym import rewards
from flexgym.algorithm.base import algorithm_class
from flexgym.algorithm.replay import REWARD_GRADIENT
from flexgym.config import AgentSettings
from flexgym.config.load import load_settings
from flexgym.config.recipe import Recipe
from flexgym.core.problems import Problem, settings_error
from flexgym.core.settings import Settings
from flexgym.environment import environment_modality
from flexgym.envs.checking import check_arguments
from flexgym.envs.prompts import load_prompts
from flexgym.reward import no_gradient_scores
from flexgym.rewards.registry import reward_class

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

    settings = load_settings(
        kind,
        recipe,
        check_reward=rewards.check,
        check_environment=check_environment,
        check_prompts=lambda prompts: load_prompts(prompts, "image"),
    )
    if isinstance(settings, AgentSettings):
        _check_gradients(settings, Recipe.of(recipe))
    return settings


def _check_gradients(settings: AgentSettings, recipe: Recipe) -> None:
    """Raise ConfigError where the algorithm needs gradients of a reward that has none."""
    if settings.reward is None:
        return
    algorithm, name = settings.algorithm, settings.reward.name
    needs = algorithm_class(algorithm.name)(algorithm).needs
    if REWARD_GRADIENT not in needs or reward_class(name).has_gradient_scores():
        return
    problem = Problem(("reward", "name"), f"algorithm {algorithm.name}: {no_gradient_scores(name)}")
    raise settings_error([problem], origin=lambda path: recipe.origin(*path))
