"""Pool of several servers of one model: load balancing, failure detection and recovery."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass

from flexgym.core.errors import ConfigError, FlexGymError, JudgeUnavailableError, nearest_name
from flexgym.core.secrets import Secret
from flexgym.core.text import PlainLogger
from flexgym.judge.backends.addresses import base_url
from flexgym.judge.backends.chat_format import read_models
from flexgym.judge.backends.connection import Answer, Connection, ExchangeError, request_headers
from flexgym.judge.backends.retry import FIRST_PAUSE_S, LONGEST_PAUSE_S, TransientError

logger = PlainLogger(__name__)

_MAX_CONSECUTIVE_FAILURES = 5
_PROBE_TIMEOUT_S = 5.0


class Server:
    """Connections and state of one server.

    Args:
        url: URL of the server, see `base_url`.
        model: name of the model; None asks the server.
        api_key: bearer token; None for none.
        max_concurrency: maximum number of concurrent requests.
        tls: TLS context for ``https``.

    Attributes:
        url: URL including its path.
        model: name of the model; empty until the server has reported it.
        up: True if the server receives requests.
        trouble: description of the last error.
        refusal: error that waiting cannot fix, such as a wrong API key; None if there is none.
        idle: connections that are not in use.
        sent: number of requests sent so far.
    """

    def __init__(
        self, url: str, *, model: str | None, api_key: Secret | None, max_concurrency: int, tls: ssl.SSLContext
    ) -> None:
        self.url = base_url(url)
        self.model = model or ""
        self.up = False
        self.trouble = "not contacted yet"
        self.refusal: ConfigError | None = None
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
        """Return the number of requests in flight."""
        return len(self.connections) - len(self.idle)

    async def chat(self, connection: Connection, body: bytes, *, seconds: float) -> Answer:
        """Send the body of a chat completion; time limit and errors are those of `Connection.send`."""
        return await connection.send("POST", self._completions, seconds=seconds, headers=self._headers, body=body)

    async def probe(self) -> None:
        """Request the list of models, and select the first one if no model was named.

        Raises:
            TransientError: if there is no connection, no response in time, or an invalid response.
            ConfigError: if the API key is rejected or the model does not exist.
        """
        try:
            answer = await self._probe.send("GET", self._models, seconds=_PROBE_TIMEOUT_S, headers=self._headers)
        except TimeoutError:
            raise TransientError(f"no response from {self._models} within {_PROBE_TIMEOUT_S:g} s") from None
        except ExchangeError as error:
            raise TransientError(str(error)) from None
        if answer.status in (401, 403):
            raise ConfigError(
                f"judge server {self.url} rejects the API key (HTTP {answer.status}); set api_key_env to the name of"
                " the environment variable that holds it."
            )
        if answer.status == 404 and self._wanted:
            return  # the server does not list its models, but may still have this one
        if answer.status != 200:
            raise TransientError(f"HTTP {answer.status} from {self._models}")
        self.model = self._choose(answer.body)

    async def aclose(self) -> None:
        """Close all connections to the server."""
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
            known = nearest_name(self._wanted or "", names) if names else "It serves no models."
            raise ConfigError(f"judge server {self.url} has no model {self._wanted!r}. {known}")
        return self._wanted


@dataclass(frozen=True)
class Lease:
    """Permission to send one request.

    Attributes:
        server: server to send the request to.
        connection: connection to use.
    """

    server: Server
    connection: Connection


class ServerPool:
    """Hand out connections to the servers that are up, within one event loop.

    A server that is unreachable or fails five times in a row is taken out of use. It is probed after a delay that
    doubles up to 15 seconds, and receives requests again once it responds. Its first successful response resets the
    delay.

    Args:
        servers: at least one server.
        wait_s: time for which all servers may be down before `lost` returns, in seconds.
    """

    def __init__(self, servers: Sequence[Server], wait_s: float) -> None:
        self.servers = tuple(servers)
        self._wait_s = wait_s
        # There is at least one permit per idle connection of the servers that are up. Permits of a server that went
        # down are discarded when they are acquired.
        self._permits = asyncio.Semaphore(0)
        self._none_up = asyncio.Event()
        self._none_up.set()
        self._decided = asyncio.Event()
        self._revivals: dict[Server, asyncio.Task[None]] = {}

    @property
    def capacity(self) -> int:
        """Return the number of concurrent requests that are possible if all servers are up."""
        return sum(len(server.connections) for server in self.servers)

    def start(self) -> None:
        """Start probing the servers that are not up, except those that are already being probed."""
        for server in self.servers:
            if not server.up and server not in self._revivals:
                self._revivals[server] = asyncio.create_task(self._revive(server))

    async def acquire(self) -> Lease:
        """Wait for a connection to the server with the fewest requests in flight; return it with `release`."""
        while True:
            await self._permits.acquire()
            free = [server for server in self.servers if server.up and server.idle]
            if free:
                server = min(free, key=lambda server: (server.in_flight, server.sent))
                server.sent += 1
                return Lease(server, server.idle.pop())

    def release(self, lease: Lease) -> None:
        """Return a connection to the pool."""
        lease.server.idle.append(lease.connection)
        if lease.server.up:
            self._permits.release()

    def succeeded(self, server: Server) -> None:
        """Record that a server responded without an error of its own."""
        server.failures = 0
        server.pause = FIRST_PAUSE_S

    def failed(self, server: Server, trouble: str, *, unreachable: bool = False) -> None:
        """Record that a server failed; take it out of use if it is unreachable or failed five times in a row."""
        server.trouble = trouble
        server.failures += 1
        if server.up and (unreachable or server.failures >= _MAX_CONSECUTIVE_FAILURES):
            server.up = False
            self._update()
            all_down = self._none_up.is_set()
            effect = f"waiting up to {self._wait_s:g} s for any server" if all_down else "continuing with the others"
            logger.warning("judge server %s is down, %s: %s", server.url, effect, trouble)
            self.start()

    async def lost(self) -> FlexGymError:
        """Wait until no server has been up for the configured time, or all servers report errors that cannot be fixed.

        Returns:
            The error to raise.
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
        """Close the connections to all servers."""
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
            f"no judge server responded within {self._wait_s:g} s: {troubles}. Start one (`flexgym judge serve`) and "
            "resume the run; wait_for_server_s sets how long a run waits."
        )


def _set(event: asyncio.Event, value: bool) -> None:
    if value:
        event.set()
    else:
        event.clear()
