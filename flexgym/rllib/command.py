"""The command line of the agents on RLlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flexgym.rllib.algorithm import FlowAlgorithm
from flexgym.rllib.recipe import apply_recipe
from flexgym.rllib.trainable import AgentTrainable
from flexgym.runs.command import run_training_command
from flexgym.runs.loop import TrainingRun
from flexgym.runs.recipe import Recipe
from flexgym.runs.settings import RunSettings


def run_command(algorithm: type[FlowAlgorithm], *, default_recipe: str, program: str) -> None:
    """Parse the command line and train.

    Args:
        algorithm: what to train.
        default_recipe: recipe of a new run when none is named.
        program: how the command is typed, for messages.
    """

    def make_run(recipe: Recipe, resume: Path | None, command: Sequence[str]) -> TrainingRun:
        settings = RunSettings.parse(recipe.pop("run", None) or {})
        config: Any = apply_recipe(algorithm.get_default_config(), recipe)
        config.validate()
        return TrainingRun(AgentTrainable(config), settings, resume=resume, command=command)

    run_training_command(make_run, default_recipe=default_recipe, program=program, summary=algorithm.__doc__)
