"""The command line of everything that trains: recipe, overrides, and the run to resume."""

from __future__ import annotations

import atexit
import contextlib
import inspect
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

import typer

from flexgym.config.describe import HelpSection, dump_settings, help_command, help_sections
from flexgym.config.recipe import Recipe, apply_overrides, load_recipe
from flexgym.core.errors import ConfigError
from flexgym.core.settings import Settings
from flexgym.core.terminal import say, teaching_errors, terminal
from flexgym.runs.interrupt import GracefulInterrupt, end_quietly, exit_status, stopping_signal
from flexgym.runs.recipe import run_named_by, saved_recipe

if TYPE_CHECKING:
    # Loads torch, for which a command that only prints its help does not wait.
    from flexgym.runs.loop import TrainingRun

S = TypeVar("S", bound=Settings)
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings as section.key=value, such as run.name=first run.minutes=5.")
]
ConfigOption = Annotated[
    str | None,
    typer.Option(help="A recipe: a file, or the name of a shipped one. By default that of the run to resume."),
]
ResumeOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder or URL of a run, or a checkpoint in it, to continue. auto: the run of this name, or a new one.",
        show_default=False,
    ),
]
AUTO = Path("auto")
"""Value of ``--resume`` for the run that the recipe names, as far as there is one."""
PrintOption = Annotated[bool, typer.Option("--print-config", help="Print the resolved settings as a recipe, and stop.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Check data, model and memory, and stop.")]
USAGE = "Settings of a recipe, as section.key=value on the command line or in a YAML file:"


@dataclass(frozen=True)
class Program(Generic[S]):
    """A program that trains what a recipe describes.

    Attributes:
        name: words that start the program, for messages.
        default_recipe: recipe of a new run without ``--config``.
        load: validates a recipe.
        make_run: makes the run of validated settings, of the run folder or checkpoint to resume, and of ``name`` as
            words.
        kind: returns the class of the settings that ``--help`` lists.
        shown: returns what ``--help`` lists, where that is known without loading the class; None elsewhere.
        dry_run: checks settings without training and returns lines for the user; adds the option ``--dry-run``.
    """

    name: str
    default_recipe: str
    load: Callable[[Recipe], S]
    make_run: Callable[[S, Path | None, Sequence[str]], TrainingRun]
    kind: Callable[[], type[Settings]]
    dry_run: Callable[[S], Iterable[str]] | None = None
    shown: Callable[[], Sequence[HelpSection] | None] = lambda: None
    small_recipe: str | None = None
    """A recipe for any machine. Where there is one, the default recipe loads a large model from the hub, and a new run
    without ``--config`` must name its ``judge.source``."""

    def run(self, recipe: Recipe, resume: Path | None, *, print_config: bool, dry_run: bool) -> None:
        """Train a recipe, or only print its settings, or only check it."""
        settings = self.load(recipe)
        if print_config:
            terminal().print(dump_settings(settings), end="", soft_wrap=True)
        elif dry_run and self.dry_run is not None:
            for line in self.dry_run(settings):
                say(line)
        else:
            run = self.make_run(settings, resume, self.name.split())
            run.train()
            if run.stopped_by not in (None, signal.SIGINT):
                raise typer.Exit(exit_status(run.stopped_by))

    def sections(self) -> Sequence[HelpSection]:
        """Return what ``--help`` lists."""
        return self.shown() or help_sections(self.kind())

    def check_choice(self, recipe: Recipe) -> None:
        """Reject a large model of the default recipe that nobody asked for.

        Args:
            recipe: the default recipe with the overrides of the command line.

        Raises:
            ConfigError: naming both recipes.
        """
        source = ("judge", "source")
        if self.small_recipe and not recipe.origins.get(source, "").startswith("override"):
            raise ConfigError(
                f"expected the model to train: --config {self.small_recipe} trains the embedded judge on any machine,"
                f" --config {self.default_recipe} loads {recipe['judge']['source']} from the hub, and"
                " judge.source=FOLDER trains any other"
            )


@contextlib.contextmanager
def exit_statuses() -> Iterator[None]:
    """Give a program that trains the exit status 128 and the number of the signal that stopped it, and no traceback.

    Inside this context a signal raises `KeyboardInterrupt`, except where `TrainingRun` finishes an iteration first.
    """
    status = 0
    try:
        with GracefulInterrupt() as interrupt, interrupt.at_once():
            yield
    except KeyboardInterrupt as error:
        status = exit_status(stopping_signal(error))
        raise typer.Exit(status) from error
    except typer.Exit as end:
        status = end.exit_code
        raise
    finally:
        atexit.register(end_quietly, status)  # before what shuts Ray down, since it was registered later


def add_command(app: typer.Typer, program: Program[Any], *, name: str | None = None, summary: str | None) -> None:
    """Add the command of a program that trains.

    It takes overrides, ``--config``, ``--resume`` and ``--print-config``. Without ``--config`` the recipe is that of
    the last start of the resumed run, or the default one in a new run; with ``--config`` it is that one in both cases.
    ``--resume auto`` resumes the run that the recipe names, or starts it, so that a scheduler can repeat one command.
    ``--help`` lists all settings.

    Args:
        app: gets the command.
        program: that trains.
        name: of the command, where the app has several.
        summary: for ``--help``.
    """

    def train(overrides: list[str] | None, config: str | None, resume: Path | None, **only: bool) -> None:
        with exit_statuses(), teaching_errors():
            if resume == AUTO:
                resume = _run_of_this_name(
                    chosen_recipe(overrides or (), config=config, default=program.default_recipe)
                )
            recipe = chosen_recipe(overrides or (), config=config, resume=resume, default=program.default_recipe)
            if not (config or resume or only["print_config"]):
                program.check_choice(recipe)
            program.run(recipe, resume, print_config=only["print_config"], dry_run=only["dry_run"])

    def command(
        overrides: Overrides = None,
        config: ConfigOption = None,
        resume: ResumeOption = None,
        *,
        print_config: PrintOption = False,
    ) -> None:
        train(overrides, config, resume, print_config=print_config, dry_run=False)

    def command_with_dry_run(
        overrides: Overrides = None,
        config: ConfigOption = None,
        resume: ResumeOption = None,
        *,
        print_config: PrintOption = False,
        only_check: DryRunOption = False,
    ) -> None:
        train(overrides, config, resume, print_config=print_config, dry_run=only_check)

    chosen = command if program.dry_run is None else command_with_dry_run
    unless = " and must name the model" if program.small_recipe else ""
    about = f"A new run takes the recipe {program.default_recipe} unless --config names another one{unless}."
    app.command(
        name, help=f"{inspect.cleandoc(summary or '')}\n\n{about}", cls=help_command(program.sections, usage=USAGE)
    )(chosen)


def _run_of_this_name(recipe: Recipe) -> Path | None:
    found = run_named_by(recipe)
    say(f"Resuming {found}." if found else "No run of this name has a checkpoint: starting a new one.")
    return found


def chosen_recipe(overrides: Sequence[str], *, config: str | None, resume: Path | None = None, default: str) -> Recipe:
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


def run_program(program: Program[Any], *, summary: str | None, arguments: Sequence[str] | None = None) -> None:
    """Parse the command line of a program that does nothing but train, and train.

    Args:
        program: that trains.
        summary: for ``--help``.
        arguments: words after those of the command; None takes the words of this process.
    """
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    add_command(app, program, summary=summary)
    app(arguments, prog_name=program.name)
