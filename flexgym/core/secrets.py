"""Secrets: read from the environment when they are used, and kept out of everything that is written or shown."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

from flexgym.core.errors import ConfigError

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*", re.ASCII)
_SECRET_NAME = re.compile(
    r"(.*_)?(api_?key|secret(_?key)?|password|passwd|credentials?|authorization|(access|auth|hf|hub|api)_?token)|token"
)
_SECRET_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/\s]*@\S*|https?://\S*[?]\S*")
_POINTER = "_env"


class Secret:
    """A text that only `reveal` returns: `str`, `repr`, formatting, JSON and pickling do not give it away.

    Args:
        text: the secret.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the secret itself, for the request that needs it."""
        return self._text

    def __repr__(self) -> str:
        return "Secret('***')"

    def __str__(self) -> str:
        return "***"

    def __reduce__(self) -> str:
        raise TypeError("a secret cannot be pickled or copied: hand over the name of its environment variable")


def check_variable(name: str | None, *, setting: str = "api_key_env") -> None:
    """Raise an error unless ``name`` is None or can be the name of an environment variable.

    Args:
        name: value of the setting; never quoted, since it may be the key itself, given by mistake.
        setting: name of the setting for messages.

    Raises:
        ConfigError: if it is anything else.
    """
    if name is not None and not (isinstance(name, str) and _VARIABLE.fullmatch(name)):
        raise ConfigError(
            f"{setting}: expected the name of an environment variable in capitals, such as JUDGE_API_KEY, got something"
            " else (not shown here, in case it is the key itself)"
        )


def secret_from_environment(name: str | None, *, setting: str = "api_key_env") -> Secret | None:
    """Read a secret from the environment variable of that name; None reads nothing.

    Args:
        name: name of the variable, in capitals.
        setting: name of the setting for messages.

    Raises:
        ConfigError: if it cannot be the name of a variable, or the variable is not set or empty.
    """
    check_variable(name, setting=setting)
    if name is None:
        return None
    text = os.environ.get(name, "").strip()
    if not text:
        raise ConfigError(
            f"{setting}: expected a key in the environment variable {name}, which is not set in this process. Set it"
            " before starting the run; on a Ray cluster, on every machine before `ray start`"
        )
    if not (text.isascii() and text.isprintable()):
        raise ConfigError(f"{setting}: expected a key of printable ASCII characters in the environment variable {name}")
    return Secret(text)


def names_a_secret(name: str) -> bool:
    """Return True if the value of a setting of this name is a key or password, such as ``api_key``."""
    return _SECRET_NAME.fullmatch(name.strip().lower().replace("-", "_")) is not None


def refuse_secrets(values: Any, *, source: str) -> None:
    """Raise an error for settings that hold a key or password, since settings are saved and shown.

    Args:
        values: settings by name, at any depth: a name such as ``api_key`` or ``hf_token``, an address with a password
            or a query, or something else than the name of a variable where that is expected.
        source: where the settings come from, for the message, such as a file; it must not quote them.

    Raises:
        ConfigError: names the setting and never its value.
    """
    found = next(_secrets(values, ()), None)
    if found is not None:
        raise secret_error(found, source=source)


def secret_error(path: str, *, source: str) -> ConfigError:
    """Return the error about a key or password among the settings.

    Args:
        path: dotted name of the setting.
        source: where the settings come from.
    """
    return ConfigError(
        f"{source}: {path}: settings are saved with the run and its checkpoints and shown, so they hold no keys or"
        " passwords. Put the key into an environment variable and set api_key_env to its name, such as JUDGE_API_KEY"
    )


def _secrets(value: Any, path: tuple[str, ...]) -> Iterator[str]:
    """Yield the dotted names of the settings that hold a secret."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _secrets(inner, (*path, str(name)))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _secrets(inner, (*path, str(index)))
    elif isinstance(value, str) and path and _is_secret(path[-1], value):
        yield ".".join(path)


def _is_secret(name: str, value: str) -> bool:
    if name.endswith(_POINTER) and names_a_secret(name.removesuffix(_POINTER)):
        return not _VARIABLE.fullmatch(value)
    return (names_a_secret(name) and bool(value)) or _SECRET_ADDRESS.fullmatch(value.strip()) is not None
