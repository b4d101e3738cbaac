"""Build and check options that a recipe or a call gives by name."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from flexgym.core.errors import ConfigError, check_names, unknown_name

_NAME_AND_NUMBER = re.compile(r"\s*(\w+)\s*(?:\(\s*(\d+)\s*\)\s*)?")
_Choice = TypeVar("_Choice")
_Settings = TypeVar("_Settings")


def built_settings(
    owner: str,
    kind: Callable[..., _Settings],
    values: Mapping[str, Any] | None,
    *,
    defaults: Mapping[str, Any] | None = None,
) -> _Settings:
    """Build a dataclass from settings by name, as a recipe gives them.

    Args:
        owner: name of what has the settings in error messages, such as ``"inputs"``.
        kind: the dataclass, which checks the values itself.
        values: its fields by name; None for the defaults.
        defaults: values that replace defaults of the dataclass.

    Raises:
        ConfigError: ``values`` is no mapping, a field is missing, or a value has a type that cannot work.
        UnknownNameError: there is no such field; the message suggests the nearest one.
    """
    if values is not None and not isinstance(values, Mapping):
        raise ConfigError(f"{owner}: expected settings by name, got {values!r}")
    given = {**(defaults or {}), **(values or {})}
    check_names(f"setting of {owner}", given, _field_names(kind))
    try:
        return kind(**given)
    except TypeError as error:
        raise ConfigError(f"{owner}: {error}") from error


def make_choice(kind: str, value: Any, *, base: type[_Choice], known: Mapping[str, type[_Choice]]) -> _Choice:
    """Build one of several dataclasses, such as a schedule, from its name and settings.

    Args:
        kind: name of the setting in error messages, such as ``"schedule"``.
        value: a name as in ``"full"``; a name and the number of its first setting as in ``"regular(6)"``; a mapping
            with ``name`` and settings as in ``{"name": "regular", "k": 6}``; or an instance of ``base``.
        base: common class of all choices.
        known: dataclasses by name.

    Raises:
        ConfigError: the value has another form, or the choice rejects its settings.
        UnknownNameError: there is no such choice or setting; the message suggests the nearest one.
    """
    if isinstance(value, base):
        return value
    name, number, settings = _read(kind, value)
    if name not in known:
        raise unknown_name(kind, name, known)
    if number is not None:
        fields = _field_names(known[name])
        if not fields:
            raise ConfigError(f"{kind} {name!r} takes no number, got {value!r}")
        settings = {fields[0]: number}
    return built_settings(f"{kind} {name!r}", known[name], settings)


def _read(kind: str, value: Any) -> tuple[str, int | None, dict[str, Any]]:
    """Split a choice into its name, the number in parentheses and its settings."""
    if isinstance(value, Mapping) and "name" in value:
        settings = dict(value)
        return str(settings.pop("name")), None, settings
    if isinstance(value, str) and (match := _NAME_AND_NUMBER.fullmatch(value)):
        return match[1], int(match[2]) if match[2] else None, {}
    raise ConfigError(f"expected a {kind} such as 'name', 'name(2)' or {{'name': 'name', ...}}, got {value!r}")


def _field_names(kind: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def describe(value: Any) -> str:
    """Format a choice, for example as ``"regular(6)"`` or ``"bradley_terry(order=True)"``."""
    if not isinstance(value, Mapping):
        return str(value)
    settings = ", ".join(f"{key}={setting}" for key, setting in value.items() if key != "name")
    return f"{value['name']}({settings})" if settings else str(value["name"])


def check_count(name: str, value: Any) -> None:
    """Raise an error unless a setting is a whole number of at least 1.

    Raises:
        ConfigError: the message names the setting and its value.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}")
