"""The command line of everything that trains: recipe, overrides, and the run to resume."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from flexgym.core.terminal import teaching_errors
from flexgym.runs.recipe import Recipe, apply_overrides, load_recipe, saved_recipe

if TYPE_CHECKING:
    # Loads torch, for which a command that only prints its help does not wait.
    from flexgym.runs.loop import TrainingRun

MakeRun = Callable[[Recipe, Path | None, Sequence[str]], "TrainingRun"]
"""Makes a run of a recipe, of the run folder or checkpoint to resume, and of the words that start the program."""
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings as section.key=value, such as run.name=first run.minutes=5.")
]
ConfigOption = Annotated[
    str | None,
    typer.Option(help="A recipe: a file, or the name of a shipped one. By default that of the run to resume."),
]
ResumeOption = Annotated[
    Path | None, typer.Option(help="A run folder, or one checkpoint in it, to continue from.", show_default=False)
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Check data, model and memory, and stop.")]


def training_command(
    make_run: MakeRun,
    *,
    default_recipe: str,
    program: str,
    summary: str | None,
    dry_run: Callable[[Recipe], Iterable[str]] | None = None,
) -> Callable[..., None]:
    """Make the function behind a command that trains, for `typer.Typer.command`.

    It takes overrides, ``--config`` and ``--resume``. Without ``--config`` the recipe is the one that the resumed run
    was started with, or the default one in a new run; with ``--config`` it is that one in both cases.

    Args:
        make_run: makes the run.
        default_recipe: recipe of a new run without ``--config``.
        program: words that start the program, for messages.
        summary: what the command trains, for ``--help``.
        dry_run: checks a recipe without training and returns lines for the user; adds the option ``--dry-run``.
    """

    def run(overrides: list[str] | None, config: str | None, resume: Path | None, *, only_check: bool = False) -> None:
        with teaching_errors():
            recipe = chosen_recipe(overrides or (), config=config, resume=resume, default=default_recipe)
            if not only_check or dry_run is None:
                make_run(recipe, resume, program.split()).train()
                return
            for line in dry_run(recipe):
                Console().print(line, markup=False, highlight=False, soft_wrap=True)

    def command(overrides: Overrides = None, config: ConfigOption = None, resume: ResumeOption = None) -> None:
        run(overrides, config, resume)

    def command_with_dry_run(
        overrides: Overrides = None,
        config: ConfigOption = None,
        resume: ResumeOption = None,
        *,
        only_check: DryRunOption = False,
    ) -> None:
        run(overrides, config, resume, only_check=only_check)

    chosen = command if dry_run is None else command_with_dry_run
    default = f"A new run takes the recipe {default_recipe} unless --config names another one."
    chosen.__doc__ = f"{inspect.cleandoc(summary or '')}\n\n{default}"
    return chosen


def chosen_recipe(overrides: Sequence[str], *, config: str | None, resume: Path | None, default: str) -> Recipe:
    """Load the recipe that a command line asks for.

    Args:
        overrides: ``section.key=value``, applied to the recipe.
        config: a file or the name of a shipped recipe; it counts before that of a run to resume.
        resume: run folder or checkpoint, whose run's recipe counts without ``config``.
        default: recipe without either.

    Raises:
        ConfigError: a recipe or override that cannot be read.
        UnknownNameError: neither a file nor a shipped recipe.
        CheckpointError: there is no complete checkpoint to resume from.
    """
    recipe = saved_recipe(resume) if resume and not config else load_recipe(config or default)
    return apply_overrides(recipe, overrides)


def run_training_command(make_run: MakeRun, *, default_recipe: str, program: str, summary: str | None) -> None:
    """Parse the command line of a program that does nothing but train, and train.

    Args:
        make_run: see `training_command`.
        default_recipe: see `training_command`.
        program: see `training_command`.
        summary: see `training_command`.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(training_command(make_run, default_recipe=default_recipe, program=program, summary=summary))
    app(prog_name=program)
