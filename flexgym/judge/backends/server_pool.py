"""Several servers of one model: who gets the next request, who is left out, and when all hope is gone."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from flexgym.core.errors import ConfigError, FlexGymError, JudgeUnavailableError, nearest_name
from flexgym.judge.backends.chat_format import one_line, read_models
from flexgym.judge.backends.connection import Answer, Connection, base_url, request_headers
from flexgym.judge.backends.picture_ids import HeldPictures
from flexgym.judge.backends.retry import FIRST_PAUSE_S, LONGEST_PAUSE_S, TransientError

logger = logging.getLogger(__name__)

_FAILURES_IN_A_ROW = 5
_PROBE_TIMEOUT_S = 5.0


class Server:
    """One server and what is known of it.

    Args:
        url: its address, see `base_url`.
        model: the name of the model, asked from the server when None.
        api_key: sent as a bearer token.
        max_concurrency: how many requests it works on at once.
        tls: for ``https``.

    Attributes:
        url: with its path.
        model: the name of the model; empty until the server has told it.
        up: whether it gets requests.
        trouble: what went wrong last.
        refusal: why waiting for it does not help, such as a wrong key.
        pictures: what it holds.
        idle: its connections that are not in use.
        sent: requests that it got so far.
    """

    def __init__(
        self, url: str, *, model: str | None, api_key: str | None, max_concurrency: int, tls: ssl.SSLContext
    ) -> None:
        self.url = base_url(url)
        self.model = model or ""
        self.up = False
        self.trouble = "it has not been asked yet"
        self.refusal: ConfigError | None = None
        self.pictures = HeldPictures()
        self.connections = [Connection(tls) for _ in range(max_concurrency)]
        self.idle = list(self.connections)
        self.sent = 0
        self.failures = 0
        self.pause = 0.0
        self._wanted = model
        self._headers = request_headers(api_key)
        self._probe = Connection(tls)
        self._completions = self.url.copy_with(path=self.url.path + "/chat/completions")
        self._models = self.url.copy_with(path=self.url.path + "/models")

    @property
    def in_flight(self) -> int:
        """How many requests it is working on."""
        return len(self.connections) - len(self.idle)

    async def chat(self, connection: Connection, body: bytes) -> Answer:
        """Send the body of a chat completion over one of the connections; raises what `Connection.send` raises."""
        return await connection.send("POST", self._completions, headers=self._headers, body=body)

    async def probe(self) -> None:
        """Ask for the list of models, and take the first where none is wanted by name.

        Raises:
            TransientError: no connection, no answer in time, or one that makes no sense.
            ConfigError: the key is refused or the model is not there.
        """
        try:
            async with asyncio.timeout(_PROBE_TIMEOUT_S):
                answer = await self._probe.send("GET", self._models, headers=self._headers)
        except TimeoutError:
            raise TransientError(f"no answer to {self._models} within {_PROBE_TIMEOUT_S:g} s") from None
        except httpx.TransportError as error:
            raise TransientError(describe(error)) from None
        if answer.status in (401, 403):
            raise ConfigError(f"judge server {self.url} refuses the key (HTTP {answer.status}); see api_key.")
        if answer.status == 404 and self._wanted:
            return  # a server without a list, which may serve all the same
        if answer.status != 200:
            raise TransientError(f"HTTP {answer.status} to {self._models}")
        self.model = self._choose(answer.body)

    async def aclose(self) -> None:
        """Close all connections."""
        for connection in (self._probe, *self.connections):
            await connection.aclose()

    def _choose(self, body: bytes) -> str:
        try:
            names = read_models(body)
        except ValueError as error:
            raise TransientError(str(error)) from None
        if self._wanted is None and names:
            return names[0]
        if self._wanted not in names:
            known = nearest_name(self._wanted or "", names) if names else "It serves none."
            raise ConfigError(f"judge server {self.url} has no model {self._wanted!r}. {known}")
        return self._wanted


@dataclass(frozen=True)
class Lease:
    """The right to one request.

    Attributes:
        server: whom to ask.
        connection: over which connection.
    """

    server: Server
    connection: Connection


class ServerPool:
    """Hands out connections to the servers that answer; for one event loop.

    A server that cannot be reached, or fails five times in a row, is left out. It is asked for its models after a pause
    that doubles up to 15 seconds, and gets requests again once it answers. Its first proper answer ends the growth.

    Args:
        servers: at least one.
        wait_s: how long all may be gone before `lost` returns.
    """

    def __init__(self, servers: Sequence[Server], wait_s: float) -> None:
        self.servers = tuple(servers)
        self._wait_s = wait_s
        # At least one permit per idle connection of the servers that are up. Those of a server that went down are
        # dropped when they are drawn.
        self._permits = asyncio.Semaphore(0)
        self._none_up = asyncio.Event()
        self._none_up.set()
        self._decided = asyncio.Event()
        self._revivals: dict[Server, asyncio.Task[None]] = {}

    @property
    def capacity(self) -> int:
        """How many requests can be under way at once while all servers are up."""
        return sum(len(server.connections) for server in self.servers)

    def start(self) -> None:
        """Look for the servers that are not up; does nothing for those that are being looked for."""
        for server in self.servers:
            if not server.up and server not in self._revivals:
                self._revivals[server] = asyncio.create_task(self._revive(server))

    async def acquire(self) -> Lease:
        """Wait for a connection to the server with the fewest requests in flight; `release` gives it back."""
        while True:
            await self._permits.acquire()
            free = [server for server in self.servers if server.up and server.idle]
            if free:
                server = min(free, key=lambda server: (server.in_flight, server.sent))
                server.sent += 1
                return Lease(server, server.idle.pop())

    def release(self, lease: Lease) -> None:
        """Give a connection back."""
        lease.server.idle.append(lease.connection)
        if lease.server.up:
            self._permits.release()

    def succeeded(self, server: Server) -> None:
        """A server gave an answer that is not an error of its own."""
        server.failures = 0
        server.pause = FIRST_PAUSE_S

    def failed(self, server: Server, trouble: str, *, unreachable: bool = False) -> None:
        """A server failed to reply; it is left out when it cannot be reached or did so five times in a row."""
        server.trouble = trouble
        server.failures += 1
        if server.up and (unreachable or server.failures >= _FAILURES_IN_A_ROW):
            server.up = False
            server.pictures.clear()
            self._update()
            hope = f"all wait up to {self._wait_s:g} s for one" if self._none_up.is_set() else "the others go on"
            logger.warning("judge server %s is gone, %s: %s", server.url, hope, trouble)
            self.start()

    async def lost(self) -> FlexGymError:
        """Wait until no server has been up for the set time, or all refuse for reasons that waiting does not mend.

        Returns:
            The error to be raised.
        """
        while True:
            await self._none_up.wait()
            try:
                async with asyncio.timeout(self._wait_s):
                    await self._decided.wait()
            except TimeoutError:
                return self._unavailable()
            if refusal := self._refusal():
                return refusal

    async def aclose(self) -> None:
        """Close all connections."""
        for server in self.servers:
            await server.aclose()

    async def _revive(self, server: Server) -> None:
        while not server.up:
            await asyncio.sleep(server.pause)
            server.pause = min(max(2.0 * server.pause, FIRST_PAUSE_S), LONGEST_PAUSE_S)
            try:
                await server.probe()
            except TransientError as error:
                server.trouble, server.refusal = str(error), None
            except ConfigError as error:
                server.trouble, server.refusal = str(error), error
            else:
                server.up, server.refusal, server.failures = True, None, 0
            self._update()
        del self._revivals[server]
        logger.info("judge server %s is up", server.url)
        for _ in server.idle:
            self._permits.release()

    def _update(self) -> None:
        some_up = any(server.up for server in self.servers)
        _set(self._none_up, not some_up)
        _set(self._decided, some_up or self._refusal() is not None)

    def _refusal(self) -> ConfigError | None:
        refusals = [server.refusal for server in self.servers]
        return refusals[0] if all(refusals) else None

    def _unavailable(self) -> JudgeUnavailableError:
        troubles = "; ".join(f"{server.url} ({server.trouble})" for server in self.servers)
        return JudgeUnavailableError(
            f"no judge server answered within {self._wait_s:g} s: {troubles}. Start one (`flexgym judge serve`) and "
            f"resume the run; wait_for_server_s sets how long a run waits."
        )


def describe(error: Exception) -> str:
    """An error of the connection in one line."""
    return one_line(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def _set(event: asyncio.Event, value: bool) -> None:
    if value:
        event.set()
    else:
        event.clear()
