"""A scorer behind HTTP, for scorers that need a Python environment of their own, such as HPSv3 or GenEval.

One request holds one group. Request (``POST <url>``) and reply are JSON objects:

- request: ``prompt``, a text, and its ``metadata``, such as the objects that GenEval looks for; ``kind``, ``"image"``
  or ``"video"``; ``samples``, a list of frames for each sample (one frame for an image), each frame a base64-encoded
  PNG file; ``fps``, frames per second of videos;
- reply: ``scores``, a number or null for each sample; optionally ``terms``, lists of the same length by name (at
  most 32 names over a run), and ``errors``, a text or null for each sample.

``examples/reward_server.py`` implements the server in one file, for any environment.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import httpx
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from flexgym.core.errors import ConfigError
from flexgym.core.json_text import parse_json
from flexgym.core.media import encode_png
from flexgym.core.secrets import check_variable, secret_from_environment
from flexgym.core.text import one_line
from flexgym.core.typed import Count, Positive, Share
from flexgym.judge.backends.addresses import checked_address
from flexgym.judge.backends.chat_format import first_error
from flexgym.judge.backends.connection import MAX_BODY_BYTES, Answer, Connection, ExchangeError, request_headers
from flexgym.judge.backends.loop_thread import LoopThread
from flexgym.judge.backends.retry import TransientError, backoff, is_transient, retry_after
from flexgym.judge.failures import check_failure_share, count_failures
from flexgym.judge.inputs import frame_indices
from flexgym.judge.protocol import JudgeFailure
from flexgym.reward import Reward
from flexgym.rewards.images import as_videos
from flexgym.types import GroupScores, SampleGroup

_MAX_TERMS = 32

_Score = Annotated[float, Field(strict=False, allow_inf_nan=False)] | None


class _Reply(BaseModel):
    scores: list[_Score]
    terms: dict[str, list[_Score]] = Field(default_factory=dict)
    errors: list[str | None] = Field(default_factory=list)


class Remote(Reward):
    """Scores from a server that speaks the protocol of this module.

    Groups are sent concurrently. Lost connections and the status codes 429 and 5xx are retried after a random pause
    that grows, at the next address if there are several; other errors are not. What still fails is a `JudgeFailure`,
    counted by kind: ``timed_out``, ``server_error`` (no connection, or an error of the server), ``unparsable`` (a reply
    that is not JSON of this form), ``invalid`` (a wrong number of scores) and ``refused`` (the server explains why it
    has no score for a sample).

    Args:
        url: address of the scorer, such as ``"http://localhost:8100/score"``, or several of the same scorer.
        timeout_s: seconds for one group, including all attempts and pauses, however slowly the server answers.
        max_attempts: maximum number of times that a group is sent.
        max_concurrency: maximum number of groups in flight.
        num_frames: number of uniformly spaced frames of a video that are sent; None sends all.
        fps: frames per second of videos, sent to the server.
        api_key_env: name of the environment variable that holds the API key, which is sent as a bearer token. The key
            itself is not a setting, since settings are saved and shown.
        max_failure_share: maximum share of failed samples in a call; above it `score` raises. 1.0 never raises.

    Raises:
        ConfigError: if there is no valid address, or the environment variable is not set.
    """

    pickled_as_settings = True

    def __init__(
        self,
        url: str | Sequence[str] = "",
        *,
        timeout_s: Positive = 120.0,
        max_attempts: Count = 4,
        max_concurrency: Count = 8,
        num_frames: Count | None = None,
        fps: Positive = 8.0,
        api_key_env: str | None = None,
        max_failure_share: Share = 0.5,
    ) -> None:
        self._urls = _checked_urls(url)
        self._timeout_s, self._max_attempts, self._num_frames, self._fps = timeout_s, max_attempts, num_frames, fps
        self._max_failure_share = max_failure_share
        self._headers = request_headers(secret_from_environment(api_key_env))
        tls = httpx.create_ssl_context() if any(url.scheme == "https" for url in self._urls) else None
        self._connections = [Connection(tls) for _ in range(max_concurrency)]
        self._thread = LoopThread("remote-reward")
        self._term_names: dict[str, None] = {}
        self._counts = {"requests": 0, "retries": 0, "bytes_sent": 0}
        self._rng = random.Random()  # its own, so that retries do not shift other random numbers

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        """Raise ConfigError for missing or malformed addresses, or a key in place of the name of its variable."""
        _checked_urls(settings.get("url", ""))
        check_variable(settings.get("api_key_env"))

    def score(self, groups: Sequence[SampleGroup]) -> list[GroupScores]:
        """Score every group, one request for each.

        Raises:
            JudgeFailureShareError: if too many samples failed, see `flexgym.judge.failures.check_failure_share`.
        """
        replies = self._thread.run(lambda: self._ask_all(groups))
        outcomes = [_sample_outcomes(reply, len(group)) for reply, group in zip(replies, groups, strict=True)]
        for group, found in zip(groups, outcomes, strict=True):
            failed = [(index, outcome) for index, outcome in enumerate(found) if isinstance(outcome, JudgeFailure)]
            self.failed.keep(self.name, group, failed)
        check_failure_share([outcome for found in outcomes for outcome in found], self._max_failure_share)
        return [self._scores(reply, found) for reply, found in zip(replies, outcomes, strict=True)]

    def metrics(self) -> dict[str, float]:
        """Return ``requests``, ``retries`` and ``bytes_sent`` since the reward was built."""
        return {name: float(count) for name, count in self._counts.items()}

    def close(self) -> None:
        """Wait for submitted work, then close all connections; nothing can be scored afterwards."""
        super().close()
        self._thread.close(self._close_connections)

    def _scores(self, reply: _Reply | JudgeFailure, outcomes: Sequence[float | JudgeFailure]) -> GroupScores:
        rewards = np.array([np.nan if isinstance(it, JudgeFailure) else it for it in outcomes], np.float32)
        terms = {} if isinstance(reply, JudgeFailure) else self._kept_terms(reply.terms)
        return GroupScores(rewards=rewards, terms={self.name: rewards, **terms}, failures=count_failures(outcomes))

    def _kept_terms(self, terms: Mapping[str, Sequence[float | None]]) -> dict[str, NDArray[np.float32]]:
        """Return the terms of the first names that the server gave; others, and this reward's own name, are left out.

        Every name is a metric of its own for as long as a run lasts.
        """
        for name in terms:
            if len(self._term_names) < _MAX_TERMS and name != self.name:
                self._term_names[name] = None
        return {name: _numbers(values) for name, values in terms.items() if name in self._term_names}

    async def _close_connections(self) -> None:
        for connection in self._connections:
            await connection.aclose()

    async def _ask_all(self, groups: Sequence[SampleGroup]) -> list[_Reply | JudgeFailure]:
        """Return the reply to every group; each connection takes the next one when it is free."""
        waiting = list(enumerate(groups))[::-1]
        replies: dict[int, _Reply | JudgeFailure] = {}

        async def work(connection: Connection) -> None:
            while waiting:
                index, group = waiting.pop()
                body = await asyncio.to_thread(_body, group, num_frames=self._num_frames, fps=self._fps)
                replies[index] = await self._ask(connection, body, count=len(group))

        async with asyncio.TaskGroup() as workers:
            for connection in self._connections[: len(groups)]:
                workers.create_task(work(connection))
        return [replies[index] for index in range(len(groups))]

    async def _ask(self, connection: Connection, body: bytes, *, count: int) -> _Reply | JudgeFailure:
        """Return the reply to one group after all attempts."""
        ends = time.monotonic() + self._timeout_s
        trouble = ""
        for attempt in range(self._max_attempts):
            self._counts["requests"] += 1
            self._counts["bytes_sent"] += len(body)
            try:
                url = self._urls[attempt % len(self._urls)]
                return _read_reply(await self._send(connection, url, body=body, ends=ends), count=count)
            except TransientError as error:
                trouble, pause = str(error), error.retry_after + backoff(attempt, self._rng)
            if time.monotonic() + pause >= ends:
                return JudgeFailure("timed_out", f"no scores within {self._timeout_s:g} s; last error: {trouble}")
            if attempt + 1 < self._max_attempts:
                self._counts["retries"] += 1
                await asyncio.sleep(pause)
        return JudgeFailure("server_error", f"gave up after {self._max_attempts} attempts; last error: {trouble}")

    async def _send(self, connection: Connection, url: httpx.URL, *, body: bytes, ends: float) -> Answer:
        """Return the answer to one attempt.

        Raises:
            TransientError: if there is no answer, or one that asks for another attempt.
        """
        left = max(ends - time.monotonic(), 0.01)
        try:
            answer = await connection.send("POST", url, seconds=left, headers=self._headers, body=body)
        except TimeoutError:
            raise TransientError(f"{url}: the response was not complete in time") from None
        except ExchangeError as error:
            raise TransientError(f"{url}: {error}") from None
        if is_transient(answer.status):
            wait = retry_after(answer.headers.get("Retry-After"))
            raise TransientError(f"HTTP {answer.status} from {url}: {_excerpt(answer.body)}", wait)
        return answer


def _read_reply(answer: Answer, *, count: int) -> _Reply | JudgeFailure:
    if answer.status != 200:
        return JudgeFailure("server_error", f"HTTP {answer.status}: {_excerpt(answer.body)}")
    if answer.is_cut:
        return JudgeFailure("unparsable", f"the reply is longer than {MAX_BODY_BYTES} bytes")
    try:
        reply = _Reply.model_validate(parse_json(answer.body))
    except ValueError as error:
        return JudgeFailure("unparsable", one_line(f"the reply is not JSON with scores: {first_error(error)}"))
    lengths = {"scores": len(reply.scores), **{name: len(values) for name, values in reply.terms.items()}}
    lengths |= {"errors": len(reply.errors)} if reply.errors else {}
    wrong = {one_line(name): length for name, length in lengths.items() if length != count}
    return JudgeFailure("invalid", f"expected {count} entries, got {wrong}") if wrong else reply


def _sample_outcomes(reply: _Reply | JudgeFailure, count: int) -> list[float | JudgeFailure]:
    """Return a score or a failure for each sample."""
    if isinstance(reply, JudgeFailure):
        return [reply] * count
    errors = reply.errors or [None] * count
    return [
        JudgeFailure("refused", one_line(error or "the server gave no score")) if score is None else score
        for score, error in zip(reply.scores, errors, strict=True)
    ]


def _numbers(values: Sequence[float | None]) -> NDArray[np.float32]:
    return np.array([np.nan if value is None else value for value in values], np.float32)


def _body(group: SampleGroup, *, num_frames: int | None, fps: float) -> bytes:
    videos = as_videos(group.samples)
    chosen = videos if num_frames is None else videos[:, frame_indices(videos.shape[1], num_frames)]
    content: Mapping[str, Any] = {
        "prompt": group.prompt.text,
        "metadata": dict(group.prompt.metadata),
        "kind": group.modality,
        "fps": fps,
        "samples": [[b64encode(encode_png(frame)).decode() for frame in video] for video in chosen],
    }
    return json.dumps(content).encode()


def _checked_urls(urls: str | Sequence[str]) -> list[httpx.URL]:
    if not urls:
        raise ConfigError("remote: expected the address of a scorer, such as 'http://localhost:8100/score', got none")
    given = [urls] if isinstance(urls, str) else urls
    return [checked_address(url, what="remote", example="http://localhost:8100/score") for url in given]


def _excerpt(body: bytes) -> str:
    return one_line(body.decode("utf-8", "replace"))
