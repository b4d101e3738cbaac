"""Algorithms of Stable-Baselines3 from the settings of a recipe."""

from __future__ import annotations

from typing import Any

import stable_baselines3
from stable_baselines3.common.base_class import BaseAlgorithm

from flexgym.config import SB3Settings
from flexgym.core.errors import ConfigError


def make_model(settings: SB3Settings, env: Any) -> BaseAlgorithm:
    """Make the chosen algorithm on an environment.

    Args:
        settings: the recipe.
        env: a vector environment of Stable-Baselines3, or a Gymnasium environment.

    Raises:
        ConfigError: the algorithm rejects its arguments or the environment.
    """
    chosen = settings.training
    algorithm: type[BaseAlgorithm] = getattr(stable_baselines3, chosen.algorithm)
    try:
        return algorithm(chosen.policy, env, seed=settings.run.seed, **settings.arguments)
    except (AssertionError, TypeError, ValueError) as error:
        raise ConfigError(f"section {chosen.algorithm!r}: {error}") from error
