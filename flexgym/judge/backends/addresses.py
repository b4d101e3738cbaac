"""Addresses of servers: HTTP, and without any secret in them, since addresses are logged, saved and shown."""

from __future__ import annotations

from typing import Any

import httpx

from flexgym.core.errors import ConfigError

_EXAMPLE = "http://localhost:8080/v1"


def checked_address(address: Any, *, what: str = "server", example: str = _EXAMPLE) -> httpx.URL:
    """Parse the address of a server.

    Args:
        address: HTTP address.
        what: name of the server in messages.
        example: valid address for messages.

    Raises:
        ConfigError: if it is not an HTTP address, or contains a password, a query or a fragment, which may be secret;
            the message then does not quote it.
    """
    expected = f"{what}: expected an address such as {example!r}"
    if not isinstance(address, str):
        raise ConfigError(f"{expected}, got {type(address).__name__}.")
    if any(sign in address for sign in "@?#"):
        raise ConfigError(
            f"{what}: expected an address without password, query or fragment, since addresses are saved and shown; set"
            " api_key_env to the environment variable that holds the key instead."
        )
    try:
        parsed = httpx.URL(address)
    except httpx.InvalidURL as error:
        raise ConfigError(f"{expected}, got {address!r} ({error}).") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"{expected}, got {address!r}.")
    return parsed


def base_url(url: str) -> httpx.URL:
    """Parse the base URL under which a server provides ``/chat/completions``.

    Args:
        url: URL such as ``"http://localhost:8080/v1"``; without a path, ``/v1`` is added.

    Raises:
        ConfigError: if it is not an HTTP address, or contains a password, query or fragment.
    """
    parsed = checked_address(url, what="judge server")
    return parsed.copy_with(path=parsed.path.rstrip("/") or "/v1")
