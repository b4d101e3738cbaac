"""Helpers for commands at the terminal: their options and their output.

Prompts, replies, file names and messages of servers are shown, so everything goes through `terminal`,
`teaching_errors` or a log record, where it becomes `flexgym.core.text.printable`.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import MISSING, fields
from types import TracebackType
from typing import Any, TextIO, get_type_hints

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from flexgym.core.errors import FlexGymError
from flexgym.core.files import cause_of, is_disk_error
from flexgym.core.text import printable, printable_records


class _PlainConsole(Console):
    """Console that interprets nothing in the texts it shows, neither markup nor control characters."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render to segments whose texts are `printable`; only rich itself makes those that control the terminal."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else printable(text), style, control)


def terminal(*, stderr: bool = False, soft_wrap: bool = False, file: TextIO | None = None) -> Console:
    """Return the console that commands write to.

    Args:
        stderr: write to standard error rather than to standard output.
        soft_wrap: leave long lines to the terminal.
        file: write there instead.
    """
    return _PlainConsole(stderr=stderr, soft_wrap=soft_wrap, file=file, markup=False, emoji=False, highlight=False)


def say(*lines: str) -> None:
    """Write lines to standard output, as they are, whatever their length."""
    console = terminal()
    for line in lines:
        console.print(line, soft_wrap=True)


@contextlib.contextmanager
def teaching_errors() -> Iterator[None]:
    """Print an error of FlexGym, or of a disk, as a message and exit with status 2; other errors propagate.

    Until the end, warnings, log messages and tracebacks of any library are `printable`; tracebacks of errors that
    propagate still are afterwards.
    """
    with _printable_warnings():
        hook = sys.excepthook
        sys.excepthook = _show_traceback
        try:
            yield
        except FlexGymError as error:
            terminal(stderr=True).print(Text.assemble(("error:", "bold red"), f" {error}"))
            sys.excepthook = hook
            raise typer.Exit(2) from error
        except OSError as error:
            if not is_disk_error(error):
                raise
            terminal(stderr=True).print(Text.assemble(("error:", "bold red"), f" {cause_of(error)}"))
            sys.excepthook = hook
            raise typer.Exit(2) from error
        sys.excepthook = hook


@contextlib.contextmanager
def _printable_warnings() -> Iterator[None]:
    """Make warnings and log messages of all libraries printable."""
    formatted, factory = warnings.formatwarning, logging.getLogRecordFactory()
    warnings.formatwarning = lambda *args, **kwargs: printable(formatted(*args, **kwargs))
    logging.setLogRecordFactory(printable_records(factory))
    try:
        yield
    finally:
        warnings.formatwarning = formatted
        logging.setLogRecordFactory(factory)


def _show_traceback(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
    else:
        sys.stderr.write(printable("".join(traceback.format_exception(kind, error, trace))))


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
