"""Settings that are chosen by name: ``"regular(6)"`` or ``{"name": "regular", "k": 6}`` in a recipe."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, TypeVar

from flexgym.core.errors import ConfigError, built_settings, unknown_name

_WRITTEN = re.compile(r"\s*(\w+)\s*(?:\(\s*(\d+)\s*\)\s*)?")
_Choice = TypeVar("_Choice")


def make_choice(kind: str, value: Any, *, base: type[_Choice], known: Mapping[str, type[_Choice]]) -> _Choice:
    """Build what a setting names.

    Args:
        kind: what an error calls the setting, such as ``"schedule"``.
        value: a name, a name with one number in brackets for the first setting of the choice, a mapping with ``name``
            and settings, or something built already.
        base: class of everything that can be chosen.
        known: dataclasses by name.

    Raises:
        ConfigError: in no such form, or a choice refuses its settings.
        UnknownNameError: no such choice or setting; the message holds the nearest one.
    """
    if isinstance(value, base):
        return value
    name, number, settings = _read(kind, value)
    if name not in known:
        raise unknown_name(kind, name, known)
    fields = [field.name for field in dataclasses.fields(known[name])]  # type: ignore[arg-type]
    if number is not None:
        if not fields:
            raise ConfigError(f"{kind} {name!r} takes no number, got {value!r}")
        settings = {fields[0]: number}
    return built_settings(f"{kind} {name!r}", known[name], settings)


def _read(kind: str, value: Any) -> tuple[str, int | None, dict[str, Any]]:
    """Name, number in brackets and settings."""
    if isinstance(value, Mapping) and "name" in value:
        settings = dict(value)
        return str(settings.pop("name")), None, settings
    if isinstance(value, str) and (match := _WRITTEN.fullmatch(value)):
        return match[1], int(match[2]) if match[2] else None, {}
    raise ConfigError(f"expected a {kind} such as 'name', 'name(2)' or {{'name': 'name', ...}}, got {value!r}")


def describe(value: Any) -> str:
    """A choice in a few words, such as ``"regular(6)"`` or ``"bradley_terry(order=True)"``."""
    if not isinstance(value, Mapping):
        return str(value)
    settings = ", ".join(f"{key}={setting}" for key, setting in value.items() if key != "name")
    return f"{value['name']}({settings})" if settings else str(value["name"])


def check_count(name: str, value: Any) -> None:
    """Refuse a number that is not a whole one above 0.

    Raises:
        ConfigError: naming the setting.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be a whole number of at least 1, got {value!r}")
