"""A single persistent HTTP connection, and helpers for the URL and headers of chat servers."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterable
from dataclasses import dataclass
from typing import cast

import httpx

from flexgym.core.errors import ConfigError

MAX_BODY_BYTES = 2**20
"""Maximum size of a response body. A normal reply is far smaller: 4,096 tokens are about 20,000 characters."""

CONNECT_TIMEOUT_S = 10.0
# Shorter than the 5 seconds after which uvicorn, and therefore vLLM, closes an idle connection.
_IDLE_S = 3.0
# Reads have no timeout of their own; the deadline of the request ends them.
_EXTENSIONS = {"timeout": {"connect": CONNECT_TIMEOUT_S, "read": None, "write": None, "pool": None}}


@dataclass(frozen=True)
class Answer:
    """HTTP response of a server.

    Attributes:
        status: HTTP status code.
        headers: headers with case-insensitive names.
        body: the first 1 MiB of the body; a longer body is cut off and no longer parses as JSON.
    """

    status: int
    headers: httpx.Headers
    body: bytes


class Connection:
    """HTTP connection for one request at a time, opened on demand and reopened if it was lost.

    An httpx pool scans all of its connections whenever a request starts or ends. With 64 connections this takes several
    times the CPU time of the request itself, so each connection is managed on its own here.

    Args:
        tls: TLS context for ``https`` URLs; shared by all connections, since it is slow to create.
    """

    def __init__(self, tls: ssl.SSLContext) -> None:
        limits = httpx.Limits(max_connections=1, keepalive_expiry=_IDLE_S)
        self._transport = httpx.AsyncHTTPTransport(verify=tls, limits=limits)

    async def send(self, method: str, url: httpx.URL, *, headers: httpx.Headers, body: bytes | None = None) -> Answer:
        """Send one request without following redirects or using proxies, and read up to 1 MiB of the response.

        Args:
            method: ``"GET"`` or ``"POST"``.
            url: URL of the request.
            headers: headers of the request.
            body: body of the request.

        Returns:
            The response, whatever its status.

        Raises:
            httpx.TransportError: if the connection fails or is lost before the response is complete.
        """
        request = httpx.Request(method, url, headers=headers, content=body, extensions=_EXTENSIONS)
        response = await self._transport.handle_async_request(request)
        try:
            content = await _read(cast(AsyncIterable[bytes], response.stream))
        finally:
            await response.aclose()
        return Answer(response.status_code, response.headers, content)

    async def aclose(self) -> None:
        """Close the underlying HTTP connection."""
        await self._transport.aclose()


def request_headers(api_key: str | None) -> httpx.Headers:
    """Return the headers of every request; they ask for an uncompressed response, so that its size can be bounded."""
    headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
    return httpx.Headers(headers | ({"Authorization": f"Bearer {api_key}"} if api_key else {}))


def base_url(url: str) -> httpx.URL:
    """Parse the base URL under which a server provides ``/chat/completions``.

    Args:
        url: URL such as ``"http://localhost:8080/v1"``; without a path, ``/v1`` is added.

    Raises:
        ConfigError: if it is not an http URL, or contains a password, query or fragment.
    """
    example = "expected an address such as 'http://localhost:8080/v1'"
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"judge server: {example}, got {url!r} ({error}).") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"judge server: {example}, got {url!r}.")
    if parsed.userinfo or parsed.query or parsed.fragment:
        raise ConfigError("judge server: expected an address without password, query or fragment; use api_key instead.")
    path = parsed.path.rstrip("/") or "/v1"
    return parsed.copy_with(path=path)


async def _read(stream: AsyncIterable[bytes]) -> bytes:
    body = bytearray()
    async for chunk in stream:
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            break
    return bytes(body[:MAX_BODY_BYTES])
