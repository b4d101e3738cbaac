"""The errors of FlexGym: one root, and every child is also the standard type that a caller would expect."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class FlexGymError(Exception):
    """Root of every error raised on purpose by FlexGym."""


class ConfigError(FlexGymError, ValueError):
    """A setting has a value that cannot work; the message says what was expected and what came."""


class UnknownNameError(ConfigError, KeyError):
    """A setting or choice of an unknown name; the message lists the nearest valid one."""

    def __str__(self) -> str:
        return str(self.args[0])


class PromptSourceError(FlexGymError, ValueError):
    """A prompt file or sequence is missing, empty or not readable as text."""


class CheckpointError(FlexGymError, OSError):
    """A checkpoint folder is missing, half written, not of the expected form, or in use by another run."""


class ActionError(FlexGymError, ValueError):
    """An action handed to an environment has the wrong shape, type or holds NaN or infinity."""


class GeneratorError(FlexGymError, TypeError):
    """A pipeline cannot be used as a flow-matching policy."""


class RewardError(FlexGymError, RuntimeError):
    """Too many samples could not be scored for training to go on."""


class JudgeFailureShareError(RewardError):
    """More of a judge's answers than allowed cannot be trusted; the message counts them by kind and shows one."""


class JudgeUnavailableError(FlexGymError, ConnectionError):
    """No judge server could be reached for as long as the run was told to wait."""


def nearest_name(name: str, known: Iterable[str]) -> str:
    """The hint that ends an error about an unknown name.

    Args:
        name: what the user wrote.
        known: the valid names.

    Returns:
        ``"Did you mean 'x'? Known: a, b, c."``, without the question when nothing is near.
    """
    names = sorted(known)
    match = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    question = f"Did you mean {match[0]!r}? " if match else ""
    return f"{question}Known: {', '.join(names)}."


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """An `UnknownNameError` for ``name`` that names the nearest valid one."""
    return UnknownNameError(f"unknown {kind} {name!r}. {nearest_name(name, known)}")


def check_names(what: str, names: Iterable[Any], known: Iterable[str]) -> None:
    """Refuse the first of ``names`` that is not among the known ones.

    Raises:
        UnknownNameError: naming the nearest valid one of ``what``.
    """
    valid = list(known)
    for name in names:
        if name not in valid:
            raise unknown_name(what, str(name), valid)
