"""Helpers for the output of commands at the terminal."""

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
    """Print an error of FlexGym as a message and exit with status 2; other errors propagate.

    The message may quote untrusted text, so markup in it is not interpreted.
    """
    try:
        yield
    except FlexGymError as error:
        Console(stderr=True).print(Text.assemble(("error:", "bold red"), f" {error}"))
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
