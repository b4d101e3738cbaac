"""Judging by OpenAI-compatible servers, such as vLLM: one or several, near or far, which may come and go."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Container, Sequence

import httpx

from flexgym.core.errors import ConfigError
from flexgym.judge.backends.base import ChatRequest, Decoding, Picture, Reply
from flexgym.judge.backends.chat_format import chat_body, one_line, read_completion
from flexgym.judge.backends.connection import Answer
from flexgym.judge.backends.group_queue import GroupQueue, Homes
from flexgym.judge.backends.loop_thread import LoopThread
from flexgym.judge.backends.retry import TransientError, backoff, is_transient, retry_after
from flexgym.judge.backends.server_pool import Lease, Server, ServerPool, describe
from flexgym.judge.backends.usage import Usage
from flexgym.judge.protocol import JudgeFailure

# The pictures that go first are read with the same beginning as in the requests that follow, so the one token that
# this costs is written on a prefix which the server keeps.
_ONE_TOKEN = Decoding(max_tokens=1)
_COUNTERS = ("retries", "bytes_sent", "pictures_sent", "pictures_by_id", "uploads")


class ServerBackend:
    """Chat with a vision-language model behind one or several OpenAI-compatible servers.

    Requests run in a background thread. Those with the same text, which are those of one group, go to one server, where
    the caches hold its pictures; a server without work helps the others. Lost connections, status 429 and 5xx are tried
    again after a growing random pause, on the server with the fewest requests in flight; other errors are not. While
    all servers are gone, everything waits.

    Args:
        urls: one address or several, such as ``"http://localhost:8080/v1"``.
        model: its name on the servers; the first that each of them lists when None.
        api_key: sent as a bearer token.
        max_concurrency: requests under way at once on each server.
        deadline_s: seconds that a request may take, all attempts and the pauses between them together. Waiting for
            its turn, or for a server to return, does not count.
        max_attempts: how often a request is sent at most.
        wait_for_server_s: seconds for which all servers may be gone.
        image_ids: send each picture to each server once and name it by its id from then on. Only vLLM can do that.

    Raises:
        ConfigError: no address or a bad one, or a number that makes no sense.
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        model: str | None = None,
        *,
        api_key: str | None = None,
        max_concurrency: int = 64,
        deadline_s: float = 300.0,
        max_attempts: int = 6,
        wait_for_server_s: float = 600.0,
        image_ids: bool = False,
    ) -> None:
        addresses = [urls] if isinstance(urls, str) else list(urls)
        if not addresses:
            raise ConfigError("judge server: expected at least one address, got none.")
        if max_concurrency < 1 or max_attempts < 1 or not deadline_s > 0 or not wait_for_server_s > 0:
            raise ConfigError(
                "judge server: expected max_concurrency and max_attempts of at least 1, deadline_s and "
                f"wait_for_server_s above 0, got {max_concurrency}, {max_attempts}, {deadline_s}, {wait_for_server_s}."
            )
        tls = httpx.create_ssl_context()
        servers = [
            Server(url, model=model, api_key=api_key, max_concurrency=max_concurrency, tls=tls) for url in addresses
        ]
        self._pool = ServerPool(servers, wait_for_server_s)
        self._deadline_s = deadline_s
        self._max_attempts = max_attempts
        self._image_ids = image_ids
        self._homes = Homes()
        self._thread = LoopThread("judge-server-client")
        self._usage = Usage(_COUNTERS)
        self._cpu_s = 0.0
        # Its own, so that retries do not shift the random numbers of anybody else.
        self._rng = random.Random()

    def complete(self, requests: Sequence[ChatRequest], decoding: Decoding) -> list[Reply | JudgeFailure]:
        """Answer every request, see `Backend.complete`.

        Raises:
            JudgeUnavailableError: no server was there for ``wait_for_server_s``, or the backend was closed.
            ConfigError: the servers refuse the key or do not know the model.
        """
        return self._thread.run(lambda: self._answer_all(requests, decoding))

    def metrics(self) -> dict[str, float]:
        """Counters since the backend was made.

        Beside those of `Usage`: ``retries``; ``bytes_sent`` in bodies; ``pictures_sent`` with their data and
        ``pictures_by_id`` without; ``uploads``, the requests that only bring a picture; ``cpu_ms_per_request`` of this
        process; ``servers_up``.
        """
        metrics = self._usage.metrics()
        return {
            **metrics,
            "cpu_ms_per_request": 1000.0 * self._cpu_s / max(metrics["requests"], 1.0),
            "servers_up": float(sum(server.up for server in self._pool.servers)),
        }

    def close(self) -> None:
        """Give up what is under way, close all connections and end the thread; may be called twice."""
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
        # Workers may still wait for a server that does not return.
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
        """The outcome of all attempts, the first of them by ``lease``."""
        left = self._deadline_s
        for attempt in range(self._max_attempts):
            if attempt > 0:
                lease = await self._pool.acquire()
            started = time.monotonic()
            try:
                async with asyncio.timeout(left):
                    return await self._attempt(lease, request, decoding, whole=attempt > 0)
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
                return JudgeFailure("timed_out", f"no time left of {self._deadline_s:g} s; the last of it: {trouble}")
            if attempt + 1 < self._max_attempts:
                self._usage.add("retries")
                await asyncio.sleep(pause)
        return JudgeFailure("server_error", f"gave up after {self._max_attempts} attempts; the last: {trouble}")

    async def _attempt(
        self, lease: Lease, request: ChatRequest, decoding: Decoding, *, whole: bool
    ) -> Reply | JudgeFailure:
        """One attempt; ``whole`` sends every picture, also those that the server should hold."""
        server, held = lease.server, set[str]()
        if self._image_ids and not whole:
            held = await server.pictures.upload(request.pictures, lambda picture: self._upload(lease, picture))
        started = time.monotonic()
        answer = await self._send(lease, request, decoding, held=held)
        if answer.status == 200:
            return read_completion(answer.body, time.monotonic() - started)
        trouble = f"HTTP {answer.status} from {server.url}: {_excerpt(answer)}"
        if held:
            server.pictures.forget(held)
            raise TransientError(trouble)
        return JudgeFailure("server_error", trouble)

    async def _upload(self, lease: Lease, picture: Picture) -> bool:
        answer = await self._send(lease, ChatRequest((picture,), "."), _ONE_TOKEN, held=())
        self._usage.add("uploads")
        reply = read_completion(answer.body, 0.0) if answer.status == 200 else None
        if not isinstance(reply, Reply):
            return False
        self._usage.add("prompt_tokens", reply.prompt_tokens)
        self._usage.add("cached_tokens", reply.cached_tokens)
        return True

    async def _send(self, lease: Lease, request: ChatRequest, decoding: Decoding, *, held: Container[str]) -> Answer:
        """The server's answer, unless it is one that asks for another attempt.

        Raises:
            TransientError: no answer, or one of that kind.
        """
        server = lease.server
        body = chat_body(request, decoding, model=server.model, with_ids=self._image_ids, held=held)
        by_id = sum(picture.id in held for picture in request.pictures)
        self._usage.add("bytes_sent", len(body))
        self._usage.add("pictures_sent", len(request.pictures) - by_id)
        self._usage.add("pictures_by_id", by_id)
        try:
            answer = await server.chat(lease.connection, body)
        except httpx.TransportError as error:
            trouble = f"{server.url}: {describe(error)}"
            gone = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            self._pool.failed(server, trouble, unreachable=gone)
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
