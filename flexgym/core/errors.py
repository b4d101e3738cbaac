"""The errors of FlexGym: one root, and every child is also the standard type that a caller would expect."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, TypeVar

_Settings = TypeVar("_Settings")


class FlexGymError(Exception):
    """Root of every error raised on purpose by FlexGym."""


class ConfigError(FlexGymError, ValueError):
    """A setting has a value that cannot work; the message says what was expected and what came."""


class UnknownNameError(FlexGymError, KeyError):
    """A name is not known; the message lists the nearest valid one."""

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
    """Refuse the first of ``names`` that is not among the known ones.

    Raises:
        UnknownNameError: naming the nearest valid one of ``what``.
    """
    valid = list(known)
    for name in names:
        if name not in valid:
            raise unknown_name(what, str(name), valid)


def built_settings(
    what: str,
    kind: Callable[..., _Settings],
    values: Mapping[str, Any] | None,
    *,
    defaults: Mapping[str, Any] | None = None,
) -> _Settings:
    """A dataclass from settings by name, as they stand in a recipe.

    Args:
        what: whose settings they are, such as ``"inputs"``.
        kind: the dataclass; what is wrong with a value, its own errors say.
        values: its fields by name; None leaves all of them as they are by default.
        defaults: of fields that have other defaults here than the dataclass gives them.

    Raises:
        ConfigError: no mapping, a missing field, or a value of a type that cannot work.
        UnknownNameError: no such field; the message holds the nearest one.
    """
    if values is not None and not isinstance(values, Mapping):
        raise ConfigError(f"{what}: expected settings by name, got {values!r}")
    given = {**(defaults or {}), **(values or {})}
    check_names(f"setting of {what}", given, [field.name for field in fields(kind)])  # type: ignore[arg-type]
    try:
        return kind(**given)
    except TypeError as error:
        raise ConfigError(f"{what}: {error}") from error
