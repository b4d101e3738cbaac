"""HTTP exchanges with servers that are not trusted: one deadline and one bound on bytes for a whole exchange.

Everything in FlexGym that talks to a server does so through `Connection` or `fetch`.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterable
from contextlib import aclosing
from dataclasses import dataclass
from typing import cast

import httpcore
import httpx

from flexgym.core.secrets import Secret
from flexgym.core.text import one_line
from flexgym.judge.backends.addresses import checked_address
from flexgym.judge.backends.loop_thread import LoopThread
from flexgym.judge.backends.streams import Meter, MeteredBackend, is_one_response

MAX_BODY_BYTES = 2**20
"""Maximum size of a response body. A normal reply is far smaller: 4,096 tokens are about 20,000 characters."""

CONNECT_TIMEOUT_S = 10.0
# Shorter than the 5 seconds after which uvicorn, and therefore vLLM, closes an idle connection.
_IDLE_S = 3.0
# Single reads and writes have no timeout of their own; the deadline of the exchange ends them.
_EXTENSIONS = {"timeout": {"connect": CONNECT_TIMEOUT_S, "read": None, "write": None, "pool": None}}


class ExchangeError(Exception):
    """Raised if a connection fails, or is lost before the response is complete.

    Args:
        message: description in one line.
        unreachable: True if there was no connection at all.
    """

    def __init__(self, message: str, *, unreachable: bool = False) -> None:
        super().__init__(message)
        self.unreachable = unreachable


@dataclass(frozen=True)
class Answer:
    """HTTP response of a server.

    Attributes:
        status: HTTP status code.
        headers: headers with case-insensitive names.
        body: the first 1 MiB of the body and one byte more; a longer body is cut off and no longer parses as JSON.
    """

    status: int
    headers: httpx.Headers
    body: bytes

    @property
    def is_cut(self) -> bool:
        """Return True if the body was longer than allowed."""
        return len(self.body) > MAX_BODY_BYTES


class Connection:
    """HTTP connection for one request at a time, opened on demand and reopened if it was lost.

    An httpx client scans all of its connections whenever a request starts or ends. With 64 connections this takes
    several times the CPU time of the request itself, so each connection is managed on its own here.

    Args:
        tls: TLS context for ``https`` URLs; shared by all connections, since it is slow to create. None creates one
            when it is needed.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._meter = Meter()
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=tls, max_connections=1, keepalive_expiry=_IDLE_S, network_backend=MeteredBackend(self._meter)
        )

    async def send(
        self, method: str, url: httpx.URL, *, seconds: float, headers: httpx.Headers, body: bytes | None = None
    ) -> Answer:
        """Send one request without following redirects or using proxies, and read up to 1 MiB of the response.

        Args:
            method: ``"GET"`` or ``"POST"``.
            url: URL of the request.
            seconds: time limit of the exchange, from looking up the name of the server to the last byte of its
                response, however the bytes trickle in.
            headers: headers of the request.
            body: body of the request.

        Returns:
            The response, whatever its status.

        Raises:
            TimeoutError: if the exchange is not complete in time; the connection is then closed.
            ExchangeError: if the connection fails, is lost before the response is complete, carries more than
                `MAX_EXCHANGE_BYTES`, or carries a further response, since the first may then belong to an earlier
                request.
        """
        # httpx writes the headers that follow from URL and body, such as Host and Content-Length.
        written = httpx.Request(method, url, headers=headers, content=body)
        request = httpcore.Request(
            method, str(url), headers=written.headers.raw, content=body, extensions=dict(_EXTENSIONS)
        )
        self._meter.begin()
        try:
            async with asyncio.timeout(seconds):
                return await self._exchange(request)
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            raise ExchangeError(_describe(error), unreachable=True) from None
        except (httpcore.NetworkError, httpcore.TimeoutException, httpcore.ProtocolError) as error:
            raise ExchangeError(_describe(error)) from None

    async def aclose(self) -> None:
        """Close the underlying HTTP connection."""
        await self._pool.aclose()

    async def _exchange(self, request: httpcore.Request) -> Answer:
        response = await self._pool.handle_async_request(request)
        async with aclosing(response):
            body = await _read(cast(AsyncIterable[bytes], response.stream))
        if not is_one_response(self._meter.received):
            await self._pool.aclose()
            if not self._meter.is_first:
                raise httpcore.RemoteProtocolError("the server sent more than one response")
        return Answer(response.status, httpx.Headers(response.headers), body)


def fetch(url: str, *, seconds: float, api_key: Secret | None = None) -> Answer:
    """Send one ``GET`` request on a connection of its own and wait for the response.

    Args:
        url: address of the server.
        seconds: time limit of the exchange, see `Connection.send`.
        api_key: key to send along; None sends none.

    Raises:
        TimeoutError: if the exchange is not complete in time.
        ExchangeError: if there is no complete response.
    """
    thread, connection = LoopThread("fetch"), Connection()
    try:
        address = checked_address(url)
        return thread.run(lambda: connection.send("GET", address, seconds=seconds, headers=request_headers(api_key)))
    finally:
        thread.close(connection.aclose)


def request_headers(api_key: Secret | None) -> httpx.Headers:
    """Return the headers of every request; they ask for an uncompressed response, so that its size can be bounded."""
    headers = {"Content-Type": "application/json", "Accept": "application/json", "Accept-Encoding": "identity"}
    return httpx.Headers(headers | ({"Authorization": f"Bearer {api_key.reveal()}"} if api_key else {}))


async def _read(stream: AsyncIterable[bytes]) -> bytes:
    body = bytearray()
    async for chunk in stream:
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            break
    return bytes(body[: MAX_BODY_BYTES + 1])


def _describe(error: Exception) -> str:
    name = type(error).__name__
    return one_line(f"{name}: {error}" if str(error) else name)
