"""A scorer behind HTTP, for scorers that need a Python environment of their own, such as HPSv3 or GenEval.

One request holds one group. Request (``POST <url>``) and reply are JSON objects:

- request: ``prompt``, a text, and its ``metadata``, such as the objects that GenEval looks for; ``kind``, ``"image"``
  or ``"video"``; ``samples``, a list of frames for each sample (one frame for an image), each frame a base64-encoded
  PNG file; ``fps``, frames per second of videos;
- reply: ``scores``, a number or null for each sample; optionally ``terms``, lists of the same length by name, and
  ``errors``, a text or null for each sample.

``examples/reward_server.py`` implements the server in one file, for any environment.
"""

from __future__ import annotations

import json
import random
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any

import httpx
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, ValidationError

from flexgym.core.errors import ConfigError
from flexgym.core.media import encode_png
from flexgym.core.typed import Count, Positive, Share
from flexgym.judge.backends.chat_format import one_line
from flexgym.judge.backends.retry import TransientError, backoff, is_transient, retry_after
from flexgym.judge.failures import check_failure_share, count_failures
from flexgym.judge.inputs import frame_indices
from flexgym.judge.protocol import JudgeFailure
from flexgym.reward import Reward
from flexgym.types import GroupScores, SampleGroup
from rewards.images import as_videos

MAX_REPLY_BYTES = 2**20
_MAX_TERMS = 32

_Score = Annotated[float, Field(strict=False, allow_inf_nan=False)] | None


class _Reply(BaseModel):
    scores: list[_Score]
    terms: dict[str, list[_Score]] = Field(default_factory=dict, max_length=_MAX_TERMS)
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
        timeout_s: seconds for one group, including all attempts and pauses.
        max_attempts: maximum number of times that a group is sent.
        max_concurrency: maximum number of groups in flight.
        num_frames: number of uniformly spaced frames of a video that are sent; None sends all.
        fps: frames per second of videos, sent to the server.
        api_key: sent as a bearer token.
        max_failure_share: maximum share of failed samples in a call; above it `score` raises. 1.0 never raises.

    Raises:
        ConfigError: if there is no valid address.
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
        api_key: str | None = None,
        max_failure_share: Share = 0.5,
    ) -> None:
        self._urls = _checked_urls(url)
        self._timeout_s, self._max_attempts, self._num_frames, self._fps = timeout_s, max_attempts, num_frames, fps
        self._max_failure_share = max_failure_share
        # Uncompressed, since only the true size of a reply can be bounded.
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        headers |= {"Authorization": f"Bearer {api_key}"} if api_key else {}
        limits = httpx.Limits(max_connections=max_concurrency)
        self._client = httpx.Client(headers=headers, limits=limits, trust_env=False)
        self._max_concurrency = max_concurrency
        self._counts = {"requests": 0, "retries": 0, "bytes_sent": 0}
        self._rng = random.Random()  # its own, so that retries do not shift other random numbers

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        """Raise ConfigError for missing or malformed addresses."""
        _checked_urls(settings.get("url", ""))

    def score(self, groups: Sequence[SampleGroup]) -> list[GroupScores]:
        """Score every group, one request for each.

        Raises:
            JudgeFailureShareError: if too many samples failed, see `flexgym.judge.failures.check_failure_share`.
        """
        with ThreadPoolExecutor(self._max_concurrency, thread_name_prefix="remote-reward") as threads:
            replies = list(threads.map(self._ask, groups))
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
        self._client.close()

    def _scores(self, reply: _Reply | JudgeFailure, outcomes: Sequence[float | JudgeFailure]) -> GroupScores:
        rewards = np.array([np.nan if isinstance(it, JudgeFailure) else it for it in outcomes], np.float32)
        terms = {} if isinstance(reply, JudgeFailure) else {name: _numbers(it) for name, it in reply.terms.items()}
        return GroupScores(rewards=rewards, terms={self.name: rewards, **terms}, failures=count_failures(outcomes))

    def _ask(self, group: SampleGroup) -> _Reply | JudgeFailure:
        """Return the reply to one group after all attempts."""
        body = _body(group, num_frames=self._num_frames, fps=self._fps)
        ends = time.monotonic() + self._timeout_s
        trouble = ""
        for attempt in range(self._max_attempts):
            self._counts["requests"] += 1
            self._counts["bytes_sent"] += len(body)
            try:
                return _read_reply(*self._send(self._urls[attempt % len(self._urls)], body, ends), count=len(group))
            except TransientError as error:
                trouble, pause = str(error), error.retry_after + backoff(attempt, self._rng)
            if time.monotonic() + pause >= ends:
                return JudgeFailure("timed_out", f"no scores within {self._timeout_s:g} s; last error: {trouble}")
            if attempt + 1 < self._max_attempts:
                self._counts["retries"] += 1
                time.sleep(pause)
        return JudgeFailure("server_error", f"gave up after {self._max_attempts} attempts; last error: {trouble}")

    def _send(self, url: str, body: bytes, ends: float) -> tuple[int, bytes]:
        """Return status and body of the answer.

        Raises:
            TransientError: if there is no answer, or one that asks for another attempt.
        """
        left = max(ends - time.monotonic(), 0.01)
        try:
            with self._client.stream("POST", url, content=body, timeout=left) as response:
                status, wait = response.status_code, retry_after(response.headers.get("Retry-After"))
                answer = _bounded(response, ends)
        except httpx.TransportError as error:
            raise TransientError(one_line(f"{url}: {type(error).__name__}: {error}")) from None
        if is_transient(status):
            raise TransientError(f"HTTP {status} from {url}: {_excerpt(answer)}", wait)
        return status, answer


def _bounded(response: httpx.Response, ends: float) -> bytes:
    """Return the body, at most one byte more than allowed; a slow server is cut off at the deadline."""
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > MAX_REPLY_BYTES:
            break
        if time.monotonic() > ends:
            raise httpx.ReadTimeout("the response was not complete in time")
    return bytes(body[: MAX_REPLY_BYTES + 1])


def _read_reply(status: int, body: bytes, *, count: int) -> _Reply | JudgeFailure:
    if status != 200:
        return JudgeFailure("server_error", f"HTTP {status}: {_excerpt(body)}")
    if len(body) > MAX_REPLY_BYTES:
        return JudgeFailure("unparsable", f"the reply is longer than {MAX_REPLY_BYTES} bytes")
    try:
        reply = _Reply.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        return JudgeFailure("unparsable", one_line(f"the reply is not JSON with scores: {place}: {first['msg']}"))
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


def _checked_urls(urls: str | Sequence[str]) -> list[str]:
    if not urls:
        raise ConfigError("remote: expected the address of a scorer, such as 'http://localhost:8100/score', got none")
    return [_checked_url(url) for url in ([urls] if isinstance(urls, str) else urls)]


def _checked_url(url: Any) -> str:
    """Return an HTTP address.

    Raises:
        ConfigError: for anything else, or an address that contains a password.
    """
    example = "expected an address such as 'http://localhost:8100/score'"
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError) as error:
        raise ConfigError(f"remote: {example}, got {url!r} ({error})") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(f"remote: {example}, got {url!r}")
    if parsed.userinfo:
        raise ConfigError("remote: expected an address without a password; use api_key instead")
    return str(parsed)


def _excerpt(body: bytes) -> str:
    return one_line(body.decode("utf-8", "replace"))
