"""The protocol of a reward, held up from outside: what fails is a failed score with a name and a reason, never a zero.

A scorer that raises, answers in another form than was agreed, with NaN or infinity, or not in time, leaves its samples
unscored (NaN). They are kept as `FailedSample`, so that a person can look at what the scorer stumbled over.
"""

from __future__ import annotations

import hashlib
import json
import logging
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
from flexgym.judge.protocol import FailureKind, JudgeFailure
from flexgym.types import GroupScores, Prompt, SampleGroup

logger = logging.getLogger(__name__)

# Everything that a scorer's own code, its libraries or its data can raise while it works on one group. What stops the
# process (memory exhausted, interruption) is not a failed score and passes through.
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
    """A scorer did not answer in time."""


@dataclass(frozen=True, eq=False)
class FailedSample:
    """A sample without a score.

    Attributes:
        reward: name of the reward.
        failure: what went wrong: ``raised`` by the scorer's own code, ``timed_out``, ``invalid`` for another form than
            agreed, NaN or infinity; of servers also their kinds, see `JudgeFailure`.
        prompt: what the sample was generated for.
        sample: uint8 ``[H, W, 3]`` or ``[F, H, W, 3]``.
    """

    reward: str
    failure: JudgeFailure
    prompt: Prompt
    sample: NDArray[np.uint8]


class FailedSamples:
    """The latest failed samples of a reward, in memory and, where a folder is set, as files.

    Args:
        folder: where each is written as PNG or MP4 beside a JSON file of the same name that says reward, reason and
            prompt; None writes nothing.
        limit: how many are kept in memory, and how many are written at most.

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

    def keep(self, reward: str, group: SampleGroup, failures: Iterable[tuple[int, JudgeFailure]]) -> None:
        """Keep samples of a group.

        Args:
            reward: name of the reward.
            group: where they come from.
            failures: index of each failed sample in the group, and why it failed.
        """
        found = list(failures)
        for detail in dict.fromkeys(failure.detail for _, failure in found):
            logger.warning("%s failed on %r: %s", reward, group.prompt.text, detail)
        for index, failure in found:
            failed = FailedSample(reward, failure, group.prompt, sample=group.samples[index].copy())
            with self._lock:
                self._latest.append(failed)
                written = self.folder is not None and self._left_to_write > 0
                self._left_to_write -= written
            if written:
                self._write(failed)

    def latest(self) -> list[FailedSample]:
        """The failed samples that are kept, the newest last."""
        with self._lock:
            return list(self._latest)

    def _write(self, failed: FailedSample) -> None:
        assert self.folder is not None
        is_image = failed.sample.ndim == 3
        told = {
            "reward": failed.reward,
            "kind": failed.failure.kind,
            "detail": failed.failure.detail,
            "prompt": failed.prompt.text,
            "metadata": dict(failed.prompt.metadata),
        }
        try:
            data = encode_png(failed.sample) if is_image else encode_mp4(failed.sample)
            name = f"{failed.reward}-{failed.failure.kind}-{hashlib.blake2b(data, digest_size=6).hexdigest()}"
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self.folder / f"{name}{'.png' if is_image else '.mp4'}", data)
            write_atomic(self.folder / f"{name}.json", json.dumps(told, indent=1, default=str).encode())
        except (OSError, ValueError) as error:
            # A full disk must not turn an unscored sample into a stopped run.
            logger.warning("a failed sample of %s could not be written to %s: %s", failed.reward, self.folder, error)


class OneAtATime:
    """Runs calls one after the other, each for a limited time.

    A call that is late goes on in its thread, which cannot be ended from outside; until it is through, others wait for
    it within their own time, so a scorer that hangs holds one thread and never meets itself.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._threads: ThreadPool | None = None

    def call(self, work: Callable[[], _Result], deadline_s: float) -> _Result:
        """What ``work`` returns or raises.

        Args:
            work: what is run, in a thread of its own.
            deadline_s: seconds it may take, waiting for an earlier call included.

        Raises:
            DeadlineError: it was not through in time.
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
        """Made when it is first needed; its thread does not keep a program from ending."""
        if self._threads is None:
            self._threads = ThreadPool(1)
        return self._threads


def checked_deadline(deadline_s: Any) -> float | None:
    """A deadline in seconds; None for none.

    Raises:
        ConfigError: not a number above 0.
    """
    if deadline_s is None:
        return None
    if isinstance(deadline_s, bool) or not isinstance(deadline_s, int | float) or not 0 < deadline_s < float("inf"):
        raise ConfigError(f"deadline_s: expected seconds above 0, or none for no deadline, got {deadline_s!r}")
    return float(deadline_s)


def sample_scores(
    scorer: Callable[[], ArrayLike], count: int
) -> tuple[NDArray[np.float32], list[tuple[int, JudgeFailure]]]:
    """The scores of ``count`` samples by a scorer that may fail.

    Args:
        scorer: gives ``[count]`` numbers.
        count: how many samples there are.

    Returns:
        float32 ``[count]``, NaN where there is no finite number; and why, by index.
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
    """The scores of groups by any reward, in the form of the protocol whatever the reward does.

    An error of FlexGym passes through: it says that there is nothing to go on with, such as no judge server.

    Args:
        name: of the reward.
        groups: what is scored.
        scorer: gives what `Reward.score` gives.
        failed: where samples go that this function finds without a score.

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
    """The scores of one group, with what is not of the agreed form made a failure."""
    if not isinstance(scores, GroupScores):
        failure = JudgeFailure("invalid", f"expected GroupScores, got {type(scores).__name__}")
        return _failed_group(name, group, failure, failed=failed)
    rewards, failures = sample_scores(lambda: scores.rewards, len(group))
    terms = {term: sample_scores(partial(_same, values), len(group))[0] for term, values in scores.terms.items()}
    # A reward that counted failures has said what its NaN mean.
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
