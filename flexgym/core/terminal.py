"""What all commands share at the terminal."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from flexgym.core.errors import FlexGymError


@contextlib.contextmanager
def teaching_errors() -> Iterator[None]:
    """Show an error of FlexGym as a message and end with status 2; any other passes through.

    The message may quote a stranger, so nothing in it is taken for markup.
    """
    try:
        yield
    except FlexGymError as error:
        Console(stderr=True).print(Text.assemble(("error:", "bold red"), f" {error}"))
        raise typer.Exit(2) from error


@contextlib.contextmanager
def without_progress_bars(*loggings: Any) -> Iterator[None]:
    """Keep the progress bars of a library's loading out of what a command prints.

    Args:
        *loggings: modules such as `transformers.utils.logging`; afterwards each is as it was.
    """
    shown = [logging for logging in loggings if logging.is_progress_bar_enabled()]
    try:
        for logging in shown:
            logging.disable_progress_bar()
        yield
    finally:
        for logging in shown:
            logging.enable_progress_bar()
