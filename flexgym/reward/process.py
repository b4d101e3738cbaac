"""A process that scores beside the one that trains, so that pure Python does not hold its interpreter lock.

Both belong to one user and are connected by a pair of sockets without a name, which no other process can reach, so they
exchange pickles.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from logging.handlers import QueueHandler
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any

from flexgym.core.text import PlainLogger
from flexgym.reward.guard import SCORER_ERRORS, FailedSample, FailedSamples
from flexgym.types import GroupScores, SampleGroup

logger = PlainLogger(__name__)

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Environment variables that set the number of threads of numerical libraries."""
PROCESS_BYTES = 80 * 10**6
"""Resident memory of a process that scores with numpy, measured; models that a reward loads come on top."""
# The modules of a user are found in the same folders as here. Unlike a child of multiprocessing, this one does not run
# the main module again, which may be a notebook, or a script that would start its training once more.
_PROGRAM = "import sys; end, *sys.path = sys.argv[1:]; from flexgym.reward.process import serve; serve(int(end))"
_NOT_COPIED = (*SCORER_ERRORS, pickle.PicklingError)
_ALL = 2**20  # failed samples of a call: those of the reward in the first process are limited
_CLOSE = b""
_CLOSING_S = 2.0
_ALIVE_S = 1.0


@dataclass(frozen=True, eq=False)
class Answer:
    """Scores or an error from the process that scores.

    Attributes:
        scores: one per group; empty when the reward has been built.
        error: raised instead.
        failed: samples that the reward kept as failed.
        logged: records that were logged meanwhile.
    """

    scores: Sequence[GroupScores]
    error: Exception | None
    failed: Sequence[FailedSample]
    logged: Sequence[logging.LogRecord]

    def unpacked(self, failed: FailedSamples) -> list[GroupScores]:
        """Return the scores or raise the error, after keeping the failed samples with those of this process."""
        for each in self.failed:
            failed.add(each)
        if self.error is not None:
            raise self.error
        return list(self.scores)


@dataclass(frozen=True, eq=False)
class Worker:
    """A running process that scores, seen from the one that started it.

    Attributes:
        process: the process; its session is its own, since the signals of a terminal are for the first process.
        connection: to it. It ends when the other end is closed, in whatever way the first process ends.
    """

    process: subprocess.Popen[bytes]
    connection: Connection[Any, Any]

    @classmethod
    def start(cls, reward: bytes) -> Worker:
        """Start a process and send it the pickle of a reward to build, without waiting for it."""
        ours, theirs = Pipe()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(theirs.fileno()), *sys.path],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, **dict.fromkeys(THREAD_VARIABLES, "1")},
                start_new_session=True,
            )
        ours.send_bytes(reward)
        return cls(process, ours)

    def answer(self) -> Answer:
        """Wait for an answer and log what was logged there.

        Raises:
            EOFError: the process has ended.
            OSError: the connection is lost.
        """
        while not self.connection.poll(_ALIVE_S):
            if self.process.poll() is not None:
                raise EOFError
        answer: Answer = pickle.loads(self.connection.recv_bytes())
        for record in answer.logged:
            logging.getLogger(record.name).handle(record)
        return answer

    def close(self) -> int:
        """Let the process close its reward and end, or else kill it; return its exit status."""
        with contextlib.suppress(OSError):
            self.connection.send_bytes(_CLOSE)
        try:
            self.process.wait(_CLOSING_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.connection.close()
        return self.process.wait()


class ScoringProcess:
    """Scores with a copy of a reward in a process of its own, which is started again if it ends.

    Args:
        name: name of the reward.
        reward: its pickle.
    """

    def __init__(self, name: str, reward: bytes) -> None:
        self._name = name
        self._reward = reward
        self._in_thread = False
        self._closed = False
        self._start()

    @classmethod
    def of(cls, reward: Any) -> ScoringProcess | None:
        """Start the process of a reward; log why and return None where the reward has to stay in this one."""
        try:
            return cls(reward.name, pickle.dumps(reward))
        except _NOT_COPIED as error:
            _log_thread(reward.name, error)
            return None

    def answer(self, groups: Sequence[SampleGroup]) -> Answer | None:
        """Return the answer of the process, started again once if it has ended.

        Args:
            groups: groups to score.

        Returns:
            The answer; None, logged once, where the process cannot build the reward, which then scores in this one.

        Raises:
            RuntimeError: the process has ended twice.
        """
        request = pickle.dumps(list(groups), protocol=pickle.HIGHEST_PROTOCOL)
        status = None
        for _ in range(2):
            try:
                return self._asked(request)
            except (EOFError, OSError):
                if self._closed:
                    raise
                status = self._end()
                self._start()
        raise RuntimeError(
            f"the process that scores {self._name} ended twice, the second time with exit status {status} (-9: killed,"
            " often for lack of memory). With the setting own_process=False the reward scores in a thread"
        )

    def close(self) -> None:
        """Close the reward of the process, and end it."""
        self._closed = True
        self._end()

    def _start(self) -> None:
        self._built = False
        self._worker = Worker.start(self._reward)
        self._end = weakref.finalize(self, self._worker.close)  # also without `close`, at the latest at exit

    def _asked(self, request: bytes) -> Answer | None:
        if not self._built and not self._in_thread and (error := self._worker.answer().error):
            _log_thread(self._name, error)
            self._in_thread = True
            self._end()
        if self._in_thread:
            return None
        self._built = True
        self._worker.connection.send_bytes(request)
        return self._worker.answer()


def _log_thread(name: str, error: Exception) -> None:
    logger.warning(
        "%s scores in a thread, which slows what is computed beside it, since a process of its own cannot build it"
        " (%s: %s). Define its class in a module that can be imported",
        name,
        type(error).__name__,
        error,
    )


def serve(descriptor: int) -> None:
    """Score what the process that started this one sends, until it says so or ends.

    Args:
        descriptor: file descriptor of the connection. The first message is the pickle of a reward.
    """
    connection: Connection[Any, Any] = Connection(descriptor)
    requests: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_receive, args=(connection, requests), daemon=True).start()
    logged: SimpleQueue[logging.LogRecord] = SimpleQueue()
    logging.getLogger().addHandler(QueueHandler(logged))
    reward: Any = None
    while (request := requests.get()) != _CLOSE:
        failed, scores, error = FailedSamples(limit=_ALL), [], None
        try:
            content = pickle.loads(request)
            if reward is None:
                reward = content
            else:
                reward.keep_failed(failed)
                scores = reward.score(content)
        except Exception as raised:  # noqa: BLE001 (whatever the reward raises belongs to the other process)
            error = _portable(raised)
        records = [logged.get() for _ in range(logged.qsize())]
        connection.send_bytes(pickle.dumps(Answer(scores, error, failed.latest(), logged=records)))
    if reward is not None:
        reward.close()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    os._exit(0)  # as children of multiprocessing do: tearing the modules down takes most of a second


def _receive(connection: Connection[Any, Any], requests: SimpleQueue[bytes]) -> None:
    """Pass requests on; end this process, whatever it computes, when the one that started it has ended."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            requests.put(connection.recv_bytes())
    os._exit(1)


def _portable(error: Exception) -> Exception:
    """Return an error that can be pickled, with its traceback as a note."""
    note = f"Raised in the process that scores:\n{''.join(traceback.format_exception(error))}"
    error.add_note(note)
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 (an error of any class may fail in any way)
        error = RuntimeError(f"{type(error).__name__}: {error}")
        error.add_note(note)
    return error
