"""The command line of every agent: recipe, overrides, and what is to be resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from flexgym.rllib.algorithm import FlowAlgorithm
from flexgym.rllib.recipe import apply_recipe
from flexgym.rllib.training_run import TrainingRun
from flexgym.runs.recipe import Recipe, apply_overrides, load_recipe, saved_recipe
from flexgym.runs.settings import RunSettings
from flexgym.terminal import teaching_errors


def run_command(algorithm: type[FlowAlgorithm], *, default_recipe: str, program: str) -> None:
    """Parse the command line and train.

    Args:
        algorithm: what to train.
        default_recipe: taken when none is named.
        program: how the command is typed, for messages.
    """

    def command(
        overrides: Annotated[list[str] | None, typer.Argument(help="such as training.lr=1e-4 run.minutes=5")] = None,
        config: Annotated[str | None, typer.Option(help="a recipe: a file, or the name of a shipped one")] = None,
        resume: Annotated[Path | None, typer.Option(help="a run folder, or one checkpoint in it")] = None,
    ) -> None:
        with teaching_errors():
            recipe = saved_recipe(resume) if resume and not config else load_recipe(config or default_recipe)
            _train(algorithm, apply_overrides(recipe, overrides or []), resume=resume, program=program)

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=algorithm.__doc__)(command)
    app(prog_name=program)


def _train(algorithm: type[FlowAlgorithm], recipe: Recipe, *, resume: Path | None, program: str) -> None:
    settings = RunSettings.parse(recipe.pop("run", None) or {})
    config: Any = apply_recipe(algorithm.get_default_config(), recipe)
    config.validate()
    TrainingRun(config, settings, resume=resume, command=program.split()).train()
