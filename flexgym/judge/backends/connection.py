"""One kept-alive HTTP connection, and where a chat server is."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterable
from dataclasses import dataclass
from typing import cast

import httpx

from flexgym.core.errors import ConfigError

MAX_BODY_BYTES = 2**20
"""No honest reply is longer: 4,096 tokens are some 20,000 characters."""

CONNECT_TIMEOUT_S = 10.0
# Below the 5 seconds after which uvicorn, and so vLLM, closes an idle connection.
_IDLE_S = 3.0
# Reading has no limit of its own: the deadline of the request ends it.
_EXTENSIONS = {"timeout": {"connect": CONNECT_TIMEOUT_S, "read": None, "write": None, "pool": None}}


@dataclass(frozen=True)
class Answer:
    """What a server sent back.

    Attributes:
        status: of HTTP.
        headers: with case-insensitive names.
        body: its first 1 MiB; what is longer is cut, and can no longer be read as JSON.
    """

    status: int
    headers: httpx.Headers
    body: bytes


class Connection:
    """A connection that is opened when needed and again when it was lost; for one request at a time.

    A pool of httpx looks at all of its connections whenever a request comes or goes. With 64 of them that takes several
    times the CPU of the request itself, so each stands alone here.

    Args:
        tls: for ``https`` addresses; shared by all connections, since it is slow to make.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        limits = httpx.Limits(max_connections=1, keepalive_expiry=_IDLE_S)
        self._transport = httpx.AsyncHTTPTransport(verify=tls, limits=limits)

    async def send(self, method: str, url: httpx.URL, *, headers: httpx.Headers, body: bytes | None = None) -> Answer:
        """Send one request; no redirect is followed, no proxy used, and an answer is read up to 1 MiB.

        Args:
            method: ``"GET"`` or ``"POST"``.
            url: where to.
            headers: of the request.
            body: of the request.

        Returns:
            The answer, whatever its status.

        Raises:
            httpx.TransportError: no connection, or lost before the answer was whole.
        """
        request = httpx.Request(method, url, headers=headers, content=body, extensions=_EXTENSIONS)
        response = await self._transport.handle_async_request(request)
        try:
            content = await _read(cast(AsyncIterable[bytes], response.stream))
        finally:
            await response.aclose()
        return Answer(response.status_code, response.headers, content)

    async def aclose(self) -> None:
        """Close the connection."""
        await self._transport.aclose()


def request_headers(api_key: str | None) -> httpx.Headers:
    """Headers of every request; the answer is asked for uncompressed, since only its true size can be bounded."""
    headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
    return httpx.Headers(headers | ({"Authorization": f"Bearer {api_key}"} if api_key else {}))


def base_url(url: str) -> httpx.URL:
    """The address under which a server answers ``/chat/completions``.

    Args:
        url: such as ``"http://localhost:8080/v1"``; without a path, ``/v1`` is added.

    Raises:
        ConfigError: not an http address, or with a password, query or fragment in it.
    """
    example = "expected an address such as 'http://localhost:8080/v1'"
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"judge server: {example}, got {url!r} ({error}).") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"judge server: {example}, got {url!r}.")
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise ConfigError("judge server: expected an address without password, query or fragment; see api_key.")
    path = parsed.path.rstrip("/") or "/v1"
    return parsed.copy_with(path=path)


async def _read(stream: AsyncIterable[bytes]) -> bytes:
    body = bytearray()
    async for chunk in stream:
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            break
    return bytes(body[:MAX_BODY_BYTES])
