"""Network streams of HTTP connections: what a server sends for one request is counted, bounded and checked."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Iterable
from typing import Any, cast

import httpcore

MAX_EXCHANGE_BYTES = 2**20 + 2**18
"""Maximum number of bytes that a server may send for one request: heads, interim responses, body and trailers."""

_MAX_UNREAD = 2**18
_HEAD = re.compile(rb"HTTP/1\.[01] ([0-9]{3}).*?\n\r?\n", re.DOTALL)
_CHUNKED = re.compile(rb"\ntransfer-encoding:[^\n]*chunked", re.IGNORECASE)
_LENGTH = re.compile(rb"\ncontent-length:[ \t]*([0-9]{1,12})", re.IGNORECASE)
_CHUNK = re.compile(rb"([0-9a-fA-F]{1,8})[^\n]*\n")


def is_one_response(data: bytes | bytearray) -> bool:
    """Return True if the received bytes are one HTTP response, after any interim ones, and nothing else.

    An HTTP parser keeps what follows a response and takes it for the response to the next request.

    Args:
        data: the bytes, up to the end of the response at least.
    """
    position, interim, fields = 0, True, b""
    while interim:
        head = _HEAD.match(data, position)
        if head is None:
            return False
        position, interim = head.end(), head[1].startswith(b"1")
        fields = head[0]
    if _CHUNKED.search(fields):
        while chunk := _CHUNK.match(data, position):
            position = chunk.end() + int(chunk[1], 16) + 2
            if int(chunk[1], 16) == 0:
                return position == len(data)
        return False
    length = _LENGTH.search(fields)
    return length is None or position + int(length[1]) == len(data)


class Meter:
    """Counter of what the server sends for the current request.

    Attributes:
        received: the bytes.
        is_first: True if the connection was opened for this request, so the first response must belong to it.
    """

    def __init__(self) -> None:
        self.received = bytearray()
        self.is_first = False

    def begin(self) -> None:
        """Begin to count for a new request."""
        self.received, self.is_first = bytearray(), False

    def count(self, data: bytes) -> None:
        """Add bytes; raise an error above the bound."""
        self.received += data
        if len(self.received) > MAX_EXCHANGE_BYTES:
            raise httpcore.RemoteProtocolError(f"the server sent more than {MAX_EXCHANGE_BYTES} bytes")


class _Link(asyncio.Protocol):
    """Bytes that a server has sent and that nobody has read yet."""

    def __init__(self) -> None:
        self.unread = bytearray()
        self.ended = False
        self.error: Exception | None = None
        self.transport: asyncio.Transport | None = None
        self._arrival: asyncio.Future[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.unread += data
        if len(self.unread) > _MAX_UNREAD and self.transport is not None:
            self.transport.pause_reading()
        self._notify()

    def eof_received(self) -> bool:
        self.ended = True
        self._notify()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended, self.error = True, exc
        self._writable.set()
        self._notify()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    async def arrival(self) -> None:
        """Wait until there are bytes, or the connection has ended."""
        if not self.unread and not self.ended:
            self._arrival = asyncio.get_running_loop().create_future()
            try:
                await self._arrival
            finally:
                self._arrival = None

    async def written(self) -> None:
        """Wait until more may be written."""
        await self._writable.wait()

    def _notify(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)


class _MeteredStream(httpcore.AsyncNetworkStream):
    """Network stream whose received bytes are counted, below the HTTP parser, which skips interim responses.

    It is built on asyncio directly: the scopes and locks of AnyIO cost as much CPU time as the rest of a request.
    """

    def __init__(self, link: _Link, transport: asyncio.Transport, meter: Meter) -> None:
        self._link, self._transport, self._meter = link, transport, meter

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        link = self._link
        await link.arrival()
        if not link.unread and link.error is not None:
            raise httpcore.ReadError(str(link.error))
        data = bytes(link.unread[:max_bytes])
        del link.unread[:max_bytes]
        if not link.ended and len(link.unread) <= _MAX_UNREAD:
            self._transport.resume_reading()
        self._meter.count(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if self._link.ended:
            raise httpcore.WriteError(str(self._link.error or "the server closed the connection"))
        self._transport.write(buffer)
        await self._link.written()

    async def aclose(self) -> None:
        self._transport.abort()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            async with asyncio.timeout(timeout):
                secured = await asyncio.get_running_loop().start_tls(
                    self._transport, self._link, ssl_context, server_hostname=server_hostname
                )
        except TimeoutError:
            raise httpcore.ConnectTimeout("no TLS handshake in time") from None
        except (OSError, EOFError) as error:  # which ssl.SSLError is
            raise httpcore.ConnectError(str(error) or type(error).__name__) from None
        if secured is None:
            raise httpcore.ConnectError("the connection ended during the TLS handshake")
        return _MeteredStream(self._link, secured, self._meter)

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":
            return bool(self._link.unread) or self._link.ended
        return self._transport.get_extra_info(info)


class MeteredBackend(httpcore.AsyncNetworkBackend):
    """Opens metered streams over TCP.

    Args:
        meter: counts what the streams receive.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    async def connect_tcp(  # noqa: PLR0917 (the signature of httpcore)
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first address of a host that answers; see `httpcore.AsyncNetworkBackend.connect_tcp`."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(timeout):
                transport, link = await loop.create_connection(_Link, host, port, happy_eyeballs_delay=0.25)
        except TimeoutError:
            raise httpcore.ConnectTimeout(f"no connection to {host}:{port} in time") from None
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from None
        self._meter.is_first = True
        return _MeteredStream(link, transport, self._meter)

    async def sleep(self, seconds: float) -> None:
        """Wait for some seconds."""
        await asyncio.sleep(seconds)
