"""Exceptions of FlexGym. All derive from one root, and each also from the standard type that a caller would expect."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

from flexgym.core.text import printable


class FlexGymError(Exception):
    """Base class of all errors that FlexGym raises on purpose.

    Its message may quote prompts, replies, file names and servers, so it is safe to show, see
    `flexgym.core.text.printable`.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(FlexGymError, ValueError):
    """A setting has a value that cannot work; the message names the expected and the given value."""


class UnknownNameError(ConfigError, KeyError):
    """A setting or choice has an unknown name; the message suggests the nearest valid one."""

    def __str__(self) -> str:
        return printable(str(self.args[0]))


class PromptSourceError(FlexGymError, ValueError):
    """A prompt file, a sequence of prompts or a first frame is missing, empty or unreadable."""


class CheckpointError(FlexGymError, OSError):
    """A checkpoint folder is missing, incomplete, of another form, or in use by another run."""


class ActionError(FlexGymError, ValueError):
    """An action given to an environment has the wrong shape or type, or contains NaN or infinity."""


class GeneratorError(FlexGymError, TypeError):
    """A pipeline cannot be used as a flow-matching policy."""


class RewardError(FlexGymError, RuntimeError):
    """Too many samples could not be scored for training to continue."""


class JudgeFailureShareError(RewardError):
    """More answers of a judge failed than allowed; the message counts them by kind and shows one."""


class JudgeUnavailableError(FlexGymError, ConnectionError):
    """No judge server could be reached within the configured waiting time."""


class ProcessLostError(FlexGymError, RuntimeError):
    """A process or machine that takes part in training was lost, and with it everything since the last checkpoint."""


def nearest_name(name: str, known: Iterable[str], *, key: Callable[[str], str] = str) -> str:
    """Return the hint that ends an error about an unknown name.

    Args:
        name: the unknown name.
        known: the valid names.
        key: the form in which names are compared, such as ``str.lower``.

    Returns:
        ``"Did you mean 'x'? Known: a, b, c."``, without the question if nothing is near.
    """
    names = {key(valid): valid for valid in sorted(known)}
    match = difflib.get_close_matches(key(name), names, n=1, cutoff=0.5)
    question = f"Did you mean {names[match[0]]!r}? " if match else ""
    return f"{question}Known: {', '.join(names.values())}."


def unknown_name(kind: str, name: str, known: Iterable[str], *, key: Callable[[str], str] = str) -> UnknownNameError:
    """Return an `UnknownNameError` for ``name`` that names the nearest valid one; arguments as for `nearest_name`."""
    return UnknownNameError(f"unknown {kind} {name!r}. {nearest_name(name, known, key=key)}")


def check_names(what: str, names: Iterable[Any], known: Iterable[str]) -> None:
    """Raise an error for the first of ``names`` that is not a known one.

    Raises:
        UnknownNameError: ``what`` is unknown; the message suggests the nearest valid name.
    """
    valid = list(known)
    for name in names:
        if name not in valid:
            raise unknown_name(what, str(name), valid)
