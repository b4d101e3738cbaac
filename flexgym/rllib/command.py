"""The command line of the agents on RLlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flexgym.config.recipe import Recipe
from flexgym.rllib.algorithm import FlowAlgorithm
from flexgym.rllib.recipe import apply_recipe
from flexgym.rllib.training_run import TrainingRun
from flexgym.runs.command import recipe_command
from flexgym.runs.settings import RunSettings


def run_command(algorithm: type[FlowAlgorithm], *, default_recipe: str, program: str) -> None:
    """Parse the command line and train.

    Args:
        algorithm: what to train.
        default_recipe: taken when none is named.
        program: how the command is typed, for messages.
    """

    def train(recipe: Recipe, resume: Path | None) -> None:
        settings = RunSettings.parse(recipe.pop("run", None) or {})
        config: Any = apply_recipe(algorithm.get_default_config(), recipe)
        config.validate()
        TrainingRun(config, settings, resume=resume, command=program.split()).train()

    recipe_command(train, default_recipe=default_recipe, program=program, summary=algorithm.__doc__)
