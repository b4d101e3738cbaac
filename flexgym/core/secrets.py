"""Secrets: read from the environment when they are used, and kept out of everything that is written or shown."""

from __future__ import annotations

import os
import re

from flexgym.core.errors import ConfigError

_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*", re.ASCII)


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
