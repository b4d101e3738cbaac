"""Helpers for commands at the terminal: their options and their output."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

import typer
from rich.console import Console
from rich.text import Text

from flexgym.core.errors import FlexGymError
from flexgym.core.files import cause_of, is_disk_error


@contextlib.contextmanager
def teaching_errors() -> Iterator[None]:
    """Print an error of FlexGym, or of a disk, as a message and exit with status 2; other errors propagate.

    The message may quote untrusted text, so markup in it is not interpreted.
    """
    try:
        yield
    except FlexGymError as error:
        Console(stderr=True).print(Text.assemble(("error:", "bold red"), f" {error}"))
        raise typer.Exit(2) from error
    except OSError as error:
        if not is_disk_error(error):
            raise
        Console(stderr=True).print(Text.assemble(("error:", "bold red"), f" {cause_of(error)}"))
        raise typer.Exit(2) from error


@contextlib.contextmanager
def without_progress_bars(*loggings: Any) -> Iterator[None]:
    """Disable progress bars of libraries, and restore them on exit.

    Args:
        *loggings: modules such as `transformers.utils.logging`.
    """
    shown = [logging for logging in loggings if logging.is_progress_bar_enabled()]
    try:
        for logging in shown:
            logging.disable_progress_bar()
        yield
    finally:
        for logging in shown:
            logging.enable_progress_bar()


def with_options(**groups: type) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Expose the fields of dataclasses as options of a command.

    Args:
        groups: dataclasses by the keyword under which the command takes an instance of them.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        options = {name: _parameters(group) for name, group in groups.items()}

        @functools.wraps(command)
        def with_flags(**given: Any) -> None:
            built = {
                name: group(**{option.name: given.pop(option.name) for option in options[name]})
                for name, group in groups.items()
            }
            command(**built, **given)

        own = inspect.signature(command, eval_str=True)
        kept = [parameter for name, parameter in own.parameters.items() if name not in groups]
        signature = own.replace(parameters=[*kept, *(option for group in options.values() for option in group)])
        # Typer reads both the signature and the annotations.
        with_flags.__signature__ = signature  # type: ignore[attr-defined]
        with_flags.__annotations__ = {name: each.annotation for name, each in signature.parameters.items()}
        return with_flags

    return decorate


def _parameters(group: type) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(group)
    ]
