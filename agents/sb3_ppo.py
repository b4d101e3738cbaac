"""Stable-Baselines3 on the control environments: PPO by default, any of its algorithms by name.

``python -m agents.sb3_ppo`` learns guidance and noise for the embedded text-to-image model within minutes;
``python -m agents.sb3_ppo training.algorithm=SAC`` takes another algorithm.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gymnasium.vector import VectorEnv

import flexgym  # noqa: F401  (registers the environments)
import rewards
from flexgym.runs.command import recipe_command
from flexgym.runs.recipe import Recipe
from flexgym.sb3.settings import SB3Settings
from flexgym.sb3.training_run import SB3Run

DEFAULT_RECIPE = "sb3_ppo_shapes_t2i_control.yaml"
PROGRAM = "python -m agents.sb3_ppo"


def make_run(recipe: Recipe, resume: Path | None = None) -> SB3Run:
    """A run as a recipe describes it, with the rewards of the package `rewards`.

    Args:
        recipe: its sections.
        resume: a run folder or checkpoint to go on from; None starts afresh.

    Raises:
        UnknownNameError: for an unknown section, key, algorithm or reward, with the nearest valid one.
        ConfigError: for a value that cannot work.
    """
    settings = SB3Settings.parse(recipe)
    rewards.check(settings.reward.name, settings.reward.settings)  # before a folder is made
    verifier = rewards.make(settings.verification.reward)
    return SB3Run(settings, wrap=_wrap, verifier=verifier, resume=resume, command=PROGRAM.split())


def _wrap(envs: VectorEnv, name: str, settings: Mapping[str, Any]) -> VectorEnv:
    return rewards.vector.wrap(envs, name, **settings)


def _train(recipe: Recipe, resume: Path | None) -> None:
    make_run(recipe, resume).train()


def main() -> None:
    """The command line."""
    summary = "Train an algorithm of Stable-Baselines3 to choose guidance and noise of a frozen generator."
    recipe_command(_train, default_recipe=DEFAULT_RECIPE, program=PROGRAM, summary=summary)


if __name__ == "__main__":
    main()
