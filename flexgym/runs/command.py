"""The command line of every agent: recipe, overrides, and what is to be resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from flexgym.config.recipe import Recipe, apply_overrides, load_recipe
from flexgym.core.terminal import teaching_errors
from flexgym.runs.recipe import saved_recipe


def recipe_command(
    train: Callable[[Recipe, Path | None], None], *, default_recipe: str, program: str, summary: str | None
) -> None:
    """Parse the command line and train.

    Args:
        train: takes the recipe with its overrides, and the run folder or checkpoint to go on from.
        default_recipe: taken when none is named.
        program: how the command is typed, for messages.
        summary: for ``--help``.
    """

    def command(
        overrides: Annotated[list[str] | None, typer.Argument(help="such as run.name=first run.minutes=5")] = None,
        config: Annotated[str | None, typer.Option(help="a recipe: a file, or the name of a shipped one")] = None,
        resume: Annotated[Path | None, typer.Option(help="a run folder, or one checkpoint in it")] = None,
    ) -> None:
        with teaching_errors():
            recipe = saved_recipe(resume) if resume and not config else load_recipe(config or default_recipe)
            train(apply_overrides(recipe, overrides or []), resume)

    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command(help=summary)(command)
    app(prog_name=program)
