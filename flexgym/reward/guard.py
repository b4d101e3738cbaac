"""Failures of rewards: an unscored sample is NaN with a name and a reason, never a zero.

A scorer that raises, answers in another form than agreed, with NaN or infinity, or not in time, leaves its samples
unscored. They are kept as `FailedSample`, so that a person can inspect them.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flexgym.core.errors import ConfigError, FlexGymError
from flexgym.core.files import write_atomic
from flexgym.core.media import encode_mp4, encode_png
from flexgym.core.text import PlainLogger
from flexgym.judge.protocol import FailureKind, JudgeFailure
from flexgym.types import GroupScores, Prompt, SampleGroup

logger = PlainLogger(__name__)

# Errors that a scorer's own code, its libraries or its data can raise while it works on one group. Errors that stop the
# process (memory exhausted, interruption) pass through.
SCORER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
_NAN = JudgeFailure("invalid", "expected a finite number, got nan")
_Result = TypeVar("_Result")


class DeadlineError(TimeoutError):
    """Raised for a scorer that did not answer in time."""


@dataclass(frozen=True, eq=False)
class FailedSample:
    """A sample without a score.

    Attributes:
        reward: name of the reward.
        failure: the kind of failure and its reason: ``raised`` by the scorer's own code, ``timed_out``, ``invalid``
            for another form than agreed, NaN or infinity; servers add the kinds of `JudgeFailure`.
        prompt: the prompt that the sample was generated for.
        sample: uint8 ``[H, W, 3]`` or ``[F, H, W, 3]``.
    """

    reward: str
    failure: JudgeFailure
    prompt: Prompt
    sample: NDArray[np.uint8]


class FailedSamples:
    """Keeps the latest failed samples of a reward, in memory and, if a folder is set, as files.

    Args:
        folder: each sample is written here as PNG or MP4, with a JSON file of the same name that holds reward, reason
            and prompt; None writes nothing.
        limit: maximum number of samples in memory, and of samples written.

    Raises:
        ConfigError: a limit below 1.
    """

    def __init__(self, folder: str | Path | None = None, *, limit: int = 64) -> None:
        if limit < 1:
            raise ConfigError(f"failed samples: expected a limit of at least 1, got {limit}")
        self.folder = None if folder is None else Path(folder)
        self._latest: deque[FailedSample] = deque(maxlen=limit)
        self._left_to_write = limit
        self._lock = threading.Lock()  # the terms of a rubric work side by side

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._lock = threading.Lock()

    def keep(self, reward: str, group: SampleGroup, failures: Iterable[tuple[int, JudgeFailure]]) -> None:
        """Keep samples of a group.

        Args:
            reward: name of the reward.
            group: the group.
            failures: index of each failed sample in the group, and the reason.
        """
        found = list(failures)
        for detail in dict.fromkeys(failure.detail for _, failure in found):
            logger.warning("%s failed on %r: %s", reward, group.prompt.text, detail)
        for index, failure in found:
            self.add(FailedSample(reward, failure, group.prompt, sample=group.samples[index].copy()))

    def add(self, failed: FailedSample) -> None:
        """Keep a failed sample, without logging it."""
        with self._lock:
            self._latest.append(failed)
            written = self.folder is not None and self._left_to_write > 0
            self._left_to_write -= written
        if written:
            self._write(failed)

    def latest(self) -> list[FailedSample]:
        """Return the failed samples in memory, the newest last."""
        with self._lock:
            return list(self._latest)

    def _write(self, failed: FailedSample) -> None:
        assert self.folder is not None
        is_image = failed.sample.ndim == 3
        description = {
            "reward": failed.reward,
            "kind": failed.failure.kind,
            "detail": failed.failure.detail,
            "prompt": failed.prompt.text,
            "metadata": dict(failed.prompt.metadata),
        }
        try:
            data = encode_png(failed.sample) if is_image else encode_mp4(failed.sample)
            name = f"{failed.reward}-{failed.failure.kind}-{hashlib.blake2b(data, digest_size=6).hexdigest()}"
            # Not its parents: a process on a machine that does not see the run folder makes none there.
            self.folder.mkdir(exist_ok=True)
            write_atomic(self.folder / f"{name}{'.png' if is_image else '.mp4'}", data)
            write_atomic(self.folder / f"{name}.json", json.dumps(description, indent=1, default=str).encode())
        except (OSError, ValueError) as error:
            # A full disk must not turn an unscored sample into a stopped run.
            logger.warning("a failed sample of %s could not be written to %s: %s", failed.reward, self.folder, error)


class OneAtATime:
    """Runs calls one after the other, each for a limited time.

    A late call continues in its thread, which cannot be ended from outside. Until it returns, other calls wait for it
    within their own deadlines, so a scorer that hangs occupies one thread and never runs twice at once.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._threads: ThreadPool | None = None

    def call(self, work: Callable[[], _Result], deadline_s: float) -> _Result:
        """Return or raise what ``work`` does.

        Args:
            work: the call, run in a thread of its own.
            deadline_s: seconds it may take, including the wait for an earlier call.

        Raises:
            DeadlineError: if it did not return in time.
        """
        late = DeadlineError(f"no score within {deadline_s:g} s")
        started = time.monotonic()
        if not self._turn.acquire(timeout=deadline_s):
            raise late

        def run() -> _Result:
            try:
                return work()
            finally:
                self._turn.release()

        running = self._pool().apply_async(run)
        running.wait(max(0.0, deadline_s - (time.monotonic() - started)))
        if not running.ready():
            raise late
        return running.get()

    def _pool(self) -> ThreadPool:
        """Return the pool, created on first use; its thread does not keep a program from exiting."""
        if self._threads is None:
            self._threads = ThreadPool(1)
        return self._threads


def sample_scores(
    scorer: Callable[[], ArrayLike], count: int
) -> tuple[NDArray[np.float32], list[tuple[int, JudgeFailure]]]:
    """Score ``count`` samples with a scorer that may fail.

    Args:
        scorer: returns ``[count]`` numbers.
        count: number of samples.

    Returns:
        Scores, float32 ``[count]``, NaN where there is no finite number; and index and reason of each failure.
    """
    unscored = np.full(count, np.nan, dtype=np.float32)
    try:
        scores = np.asarray(scorer(), dtype=np.float64)
    except SCORER_ERRORS as error:
        return unscored, _all_failed(count, _failure_of(error))
    if scores.shape != unscored.shape:
        return unscored, _all_failed(
            count, JudgeFailure("invalid", f"expected scores of shape {unscored.shape}, got {scores.shape}")
        )
    # The bound of float32 counts as well: beyond it the cast would make infinity.
    usable = np.abs(scores) <= np.finfo(np.float32).max
    failures = [(int(index), _not_finite(scores[index])) for index in np.flatnonzero(~usable)]
    return np.where(usable, scores, np.nan).astype(np.float32), failures


def guarded_scores(
    name: str, groups: Sequence[SampleGroup], scorer: Callable[[], Sequence[GroupScores]], *, failed: FailedSamples
) -> list[GroupScores]:
    """Score groups with any reward and return scores of the agreed form, whatever the reward does.

    A `FlexGymError` passes through: it means that scoring cannot continue, for example without any judge server.

    Args:
        name: name of the reward.
        groups: the groups.
        scorer: returns what `Reward.score` returns.
        failed: keeps the samples that this function finds without a score.

    Returns:
        One `GroupScores` per group with ``rewards`` of shape ``[G]``, finite or NaN.
    """
    try:
        scores = list(scorer())
    except FlexGymError:
        raise
    except SCORER_ERRORS as error:
        return [_failed_group(name, group, _failure_of(error), failed=failed) for group in groups]
    if len(scores) != len(groups):
        failure = JudgeFailure("invalid", f"expected the scores of {len(groups)} groups, got {len(scores)}")
        return [_failed_group(name, group, failure, failed=failed) for group in groups]
    return [_checked(name, group, found, failed=failed) for group, found in zip(groups, scores, strict=True)]


def _checked(name: str, group: SampleGroup, scores: Any, *, failed: FailedSamples) -> GroupScores:
    """Return the scores of one group, with everything that is not of the agreed form turned into a failure."""
    if not isinstance(scores, GroupScores):
        failure = JudgeFailure("invalid", f"expected GroupScores, got {type(scores).__name__}")
        return _failed_group(name, group, failure, failed=failed)
    rewards, failures = sample_scores(lambda: scores.rewards, len(group))
    terms = {term: sample_scores(partial(_same, values), len(group))[0] for term, values in scores.terms.items()}
    # A reward that counted failures has explained its NaN.
    new = [(index, failure) for index, failure in failures if not (scores.failures and failure is _NAN)]
    failed.keep(name, group, new)
    counts = {**scores.failures, name: scores.failures.get(name, 0) + len(new)} if new else scores.failures
    return replace(scores, rewards=rewards, terms=terms, failures=counts)


def _same(values: ArrayLike) -> ArrayLike:
    return values


def _failed_group(name: str, group: SampleGroup, failure: JudgeFailure, *, failed: FailedSamples) -> GroupScores:
    failed.keep(name, group, _all_failed(len(group), failure))
    unscored = np.full(len(group), np.nan, dtype=np.float32)
    return GroupScores(rewards=unscored, failures={name: len(group)} if len(group) else {})


def _not_finite(score: float) -> JudgeFailure:
    return _NAN if np.isnan(score) else JudgeFailure("invalid", f"expected a finite number, got {score}")


def _all_failed(count: int, failure: JudgeFailure) -> list[tuple[int, JudgeFailure]]:
    return [(index, failure) for index in range(count)]


def _failure_of(error: Exception) -> JudgeFailure:
    kind: FailureKind = "timed_out" if isinstance(error, TimeoutError) else "raised"
    return JudgeFailure(kind, str(error) if isinstance(error, DeadlineError) else f"{type(error).__name__}: {error}")
