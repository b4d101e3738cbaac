"""Backend for OpenAI-compatible servers such as vLLM: one or several, local or remote, with retries and failover."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

import httpx

from flexgym.core.errors import ConfigError
from flexgym.core.secrets import secret_from_environment
from flexgym.core.text import one_line
from flexgym.judge.backends.base import ChatRequest, Decoding, Reply
from flexgym.judge.backends.chat_format import chat_body, read_completion
from flexgym.judge.backends.connection import Answer, ExchangeError
from flexgym.judge.backends.group_queue import GroupQueue, Homes
from flexgym.judge.backends.loop_thread import LoopThread
from flexgym.judge.backends.retry import TransientError, backoff, is_transient, retry_after
from flexgym.judge.backends.server_pool import Lease, Server, ServerPool
from flexgym.judge.backends.usage import Usage
from flexgym.judge.protocol import JudgeFailure

_COUNTERS = ("retries", "bytes_sent", "pictures_sent")


class ServerBackend:
    """Chat with a vision-language model behind one or several OpenAI-compatible servers.

    Requests run in a background thread. Requests with the same text belong to one group and go to the same server,
    whose caches hold the group's images; idle servers help the others. Lost connections and status 429 or 5xx are
    retried after a growing random delay, on the server with the fewest requests in flight; other errors are not
    retried. While all servers are down, all requests wait.

    Args:
        urls: one or more URLs, such as ``"http://localhost:8080/v1"``.
        model: name of the model on the servers; None uses the first model that each server lists.
        api_key_env: name of the environment variable that holds the API key, which is sent as a bearer token. The key
            itself is not a setting, since settings are saved and shown.
        max_concurrency: maximum number of concurrent requests per server.
        deadline_s: time limit of a request over all attempts and delays, in seconds. Waiting in the queue, or for a
            server to come back, does not count.
        max_attempts: maximum number of attempts per request.
        wait_for_server_s: time for which all servers may be down before an error is raised, in seconds.

    Raises:
        ConfigError: if there is no URL or an invalid one, a number is out of range, or the variable is not set.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        model: str | None = None,
        *,
        api_key_env: str | None = None,
        max_concurrency: int = 64,
        deadline_s: float = 300.0,
        max_attempts: int = 6,
        wait_for_server_s: float = 600.0,
    ) -> None:
        addresses = [urls] if isinstance(urls, str) else list(urls)
        if not addresses:
            raise ConfigError("judge server: expected at least one address, got none.")
        if max_concurrency < 1 or max_attempts < 1 or not deadline_s > 0 or not wait_for_server_s > 0:
            raise ConfigError(
                "judge server: expected max_concurrency and max_attempts of at least 1, deadline_s and "
                f"wait_for_server_s above 0, got {max_concurrency}, {max_attempts}, {deadline_s}, {wait_for_server_s}."
            )
        api_key = secret_from_environment(api_key_env)
        tls = httpx.create_ssl_context()
        servers = [
            Server(url, model=model, api_key=api_key, max_concurrency=max_concurrency, tls=tls) for url in addresses
        ]
        self._pool = ServerPool(servers, wait_for_server_s)
        self._deadline_s = deadline_s
        self._max_attempts = max_attempts
        self._homes = Homes()
        self._thread = LoopThread("judge-server-client")
        self._usage = Usage(_COUNTERS)
        self._cpu_s = 0.0
        # Use a separate random generator, so retries do not affect random numbers elsewhere.
        self._rng = random.Random()

    def complete(self, requests: Sequence[ChatRequest], decoding: Decoding) -> list[Reply | JudgeFailure]:
        """Answer every request, see `Backend.complete`.

        Raises:
            JudgeUnavailableError: if all servers are down for ``wait_for_server_s``, or the backend is closed.
            ConfigError: if the servers reject the API key or do not have the model.
        """
        return self._thread.run(lambda: self._answer_all(requests, decoding))

    def metrics(self) -> dict[str, float]:
        """Return counters since creation.

        In addition to those of `Usage`: ``retries``; ``bytes_sent`` in request bodies; ``pictures_sent``, images in
        them; ``cpu_ms_per_request`` in this process; ``servers_up``.
        """
        metrics = self._usage.metrics()
        return {
            **metrics,
            "cpu_ms_per_request": 1000.0 * self._cpu_s / max(metrics["requests"], 1.0),
            "servers_up": float(sum(server.up for server in self._pool.servers)),
        }

    def close(self) -> None:
        """Cancel running requests, close all connections and end the thread; may be called repeatedly."""
        self._thread.close(self._pool.aclose)

    async def _answer_all(self, requests: Sequence[ChatRequest], decoding: Decoding) -> list[Reply | JudgeFailure]:
        outcomes: dict[int, Reply | JudgeFailure] = {}
        queue = GroupQueue([hash(request.text) for request in requests], self._homes)
        all_answered = asyncio.Event()

        async def work() -> None:
            while len(outcomes) < len(requests):
                lease = await self._pool.acquire()
                index = queue.take(lease.server)
                if index is None:
                    self._pool.release(lease)
                    return
                outcomes[index] = await self._answer(requests[index], decoding, lease)
            all_answered.set()

        async def work_together() -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(len(requests), self._pool.capacity)):
                    group.create_task(work())

        self._pool.start()
        workers = asyncio.create_task(work_together())
        lost = asyncio.create_task(self._pool.lost())
        # Workers may still be waiting for a server that never comes back.
        done = asyncio.create_task(all_answered.wait())
        try:
            await asyncio.wait((workers, lost, done), return_when=asyncio.FIRST_COMPLETED)
            if workers.done():
                workers.result()
            elif not done.done():
                raise lost.result()
        finally:
            for task in (workers, lost, done):
                task.cancel()
            self._cpu_s = time.thread_time()
        return [outcomes[index] for index in range(len(requests))]

    async def _answer(self, request: ChatRequest, decoding: Decoding, lease: Lease) -> Reply | JudgeFailure:
        outcome = await self._try_to_answer(request, decoding, lease)
        self._usage.count([outcome])
        return outcome

    async def _try_to_answer(self, request: ChatRequest, decoding: Decoding, lease: Lease) -> Reply | JudgeFailure:
        """Return the outcome of all attempts, the first one on ``lease``."""
        left = self._deadline_s
        for attempt in range(self._max_attempts):
            if attempt > 0:
                lease = await self._pool.acquire()
            started = time.monotonic()
            try:
                return await self._attempt(lease, request, decoding, seconds=left)
            except TimeoutError:
                trouble = f"no reply within {self._deadline_s:g} s from {lease.server.url}"
                self._pool.failed(lease.server, trouble)
                return JudgeFailure("timed_out", trouble)
            except TransientError as error:
                trouble = str(error)
                pause = error.retry_after + backoff(attempt, self._rng)
            finally:
                self._pool.release(lease)
            left -= time.monotonic() - started + pause
            if left <= 0:
                return JudgeFailure("timed_out", f"deadline of {self._deadline_s:g} s exceeded; last error: {trouble}")
            if attempt + 1 < self._max_attempts:
                self._usage.add("retries")
                await asyncio.sleep(pause)
        return JudgeFailure("server_error", f"gave up after {self._max_attempts} attempts; last error: {trouble}")

    async def _attempt(
        self, lease: Lease, request: ChatRequest, decoding: Decoding, *, seconds: float
    ) -> Reply | JudgeFailure:
        started = time.monotonic()
        answer = await self._send(lease, request, decoding, seconds=seconds)
        if answer.status == 200:
            return read_completion(answer.body, time.monotonic() - started)
        return JudgeFailure("server_error", f"HTTP {answer.status} from {lease.server.url}: {_excerpt(answer)}")

    async def _send(self, lease: Lease, request: ChatRequest, decoding: Decoding, *, seconds: float) -> Answer:
        """Send a request and return the response, unless it is worth a retry.

        Raises:
            TransientError: if there is no response, or its status is worth a retry.
            TimeoutError: if the exchange is not complete within ``seconds``.
        """
        server = lease.server
        body = chat_body(request, decoding, model=server.model)
        self._usage.add("bytes_sent", len(body))
        self._usage.add("pictures_sent", len(request.pictures))
        try:
            answer = await server.chat(lease.connection, body, seconds=seconds)
        except ExchangeError as error:
            trouble = f"{server.url}: {error}"
            self._pool.failed(server, trouble, unreachable=error.unreachable)
            raise TransientError(trouble) from None
        if is_transient(answer.status):
            trouble = f"HTTP {answer.status} from {server.url}: {_excerpt(answer)}"
            if answer.status != 429:
                self._pool.failed(server, trouble)
            raise TransientError(trouble, retry_after(answer.headers.get("Retry-After")))
        self._pool.succeeded(server)
        return answer


def _excerpt(answer: Answer) -> str:
    return one_line(answer.body.decode("utf-8", "replace"))
