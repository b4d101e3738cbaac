"""Query models about pairs and store every reply on disk, so an interrupted run never repeats a request."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Protocol, Self

import numpy as np
from filelock import lock_descriptor

from flexgym.core.errors import ConfigError, RewardError
from flexgym.core.files import open_own, teaching_disk_errors
from flexgym.core.json_text import parse_json
from flexgym.data import PreferencePair, Question, load_pictures
from flexgym.data.files import MAX_PICTURES
from flexgym.data.media import AS_STORED, load_sample
from flexgym.judge.assessment import Assessment
from flexgym.judge.backends.base import Backend, ChatRequest, Decoding, Reply
from flexgym.judge.dialect import Dialect, without_odd_scores
from flexgym.judge.inputs import Inputs, encode_sample
from flexgym.judge.protocol import JudgeFailure, Outcome
from flexgym.judge.vision_judge import ask

_MILLION = 1_000_000
_Outcomes = dict[str, Reply | JudgeFailure]


@dataclass(frozen=True, eq=False)
class Query:
    """A request together with its pair."""

    pair: PreferencePair
    request: ChatRequest


class Teacher(Protocol):
    """Interface of a model or rule set that answers queries.

    Attributes:
        name: name of the model; stored replies are only reused for the same name.
        one_by_one: send queries in concurrent calls of one query each, so every reply is stored as soon as it arrives;
            otherwise all queries are sent in one call.
    """

    name: str
    one_by_one: bool

    def answer(self, queries: Sequence[Query], decoding: Decoding) -> list[Reply | JudgeFailure]:
        """Return one reply or failure per query, in order."""
        ...


class ModelTeacher:
    """Vision-language model as a teacher.

    Args:
        backend: backend that runs the model. It is not closed by this class.
        name: name of the model, see `Teacher`.
        one_by_one: see `Teacher`; requires a thread-safe backend, such as that for servers.
    """

    def __init__(self, backend: Backend, name: str, *, one_by_one: bool = False) -> None:
        self._backend = backend
        self.name = name
        self.one_by_one = one_by_one

    def answer(self, queries: Sequence[Query], decoding: Decoding) -> list[Reply | JudgeFailure]:
        """Send the requests to the model, see `Teacher.answer`."""
        return ask(self._backend, [query.request for query in queries], decoding)


class OracleTeacher:
    """Rules of the small world as a free teacher; it writes short assessments that a small model can learn."""

    name = "oracle"
    one_by_one = False

    def answer(self, queries: Sequence[Query], decoding: Decoding) -> list[Reply | JudgeFailure]:
        """Answer by rules, see `Teacher.answer`; captions and samples from outside the small world are ``refused``."""
        return [self._answer(query.pair) for query in queries]

    def _answer(self, pair: PreferencePair) -> Reply | JudgeFailure:
        try:
            return Reply(oracle_text(pair))
        except ValueError as error:
            return JudgeFailure("refused", str(error))


def oracle_text(pair: PreferencePair) -> str:
    """Write the assessment of a pair by the rules of the small world.

    Raises:
        ValueError: if the caption or a sample is not from the small world, or media cannot be read.
    """
    from flexgym.shapes.brief import brief_assessment, view

    first, second = (
        view(pair.prompt, load_sample(side, pair.kind, num_frames=MAX_PICTURES)) for side in (pair.first, pair.second)
    )
    return brief_assessment(first, second)


def make_query(pair: PreferencePair, question: Question, inputs: Inputs) -> Query:
    """Build the request that a judge would receive about a pair in use.

    Args:
        pair: the pair in the order in which it is shown.
        question: how the judge is queried.
        inputs: how images are encoded.

    Raises:
        RowError: if media cannot be read.
    """
    message, sources = question.ask(pair)
    # Reduced as they are read, and encoded below: encoding twice would not give what a judge in use receives.
    reduced = load_pictures(sources, dataclasses.replace(AS_STORED, max_side=inputs.max_side))
    pictures = [part for image in reduced for part in encode_sample(np.asarray(image), inputs)]
    return Query(pair, ChatRequest(tuple(pictures), message.text))


def read_trace(reply: Reply | JudgeFailure, dialect: Dialect) -> Outcome:
    """Parse a reply with the strictness required for training data.

    Three things that are accepted from a judge in use are rejected here: a reply that was cut off after its last
    bracket, a personalized category that is dropped because it breaks a rule, and sub-dimensions whose scores are set
    aside, since they are not numbers, out of range or do not sum to 10.

    Args:
        reply: reply of a model, or the reason why there is none.
        dialect: expected dialect.
    """
    if isinstance(reply, JudgeFailure):
        return reply
    if reply.finish_reason == "length":
        return JudgeFailure("truncated", "the reply was cut off")
    outcome = dialect.parse(reply.text, reply.finish_reason)
    if not isinstance(outcome, JudgeFailure) and outcome.left_out:
        what = "categories" if isinstance(outcome, Assessment) else "dimensions"
        return JudgeFailure("invalid", f"{outcome.left_out} {what} break the rules")
    return without_odd_scores(outcome)


@dataclass
class Cost:
    """Counts of requests and tokens.

    Attributes:
        requests: number of requests sent to the teacher.
        failed: number of requests without a reply; they are sent again in the next run.
        reused: number of replies taken from the file.
        prompt_tokens: number of prompt tokens processed in this run.
        completion_tokens: number of tokens generated in this run.
    """

    requests: int = 0
    failed: int = 0
    reused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def describe(self, price: tuple[float, float] | None = None) -> str:
        """Return a one-line summary.

        Args:
            price: price of a million prompt tokens and of a million completion tokens; None omits the cost.
        """
        text = (
            f"{self.requests:,} requests ({self.failed:,} failed; {self.reused:,} replies reused),"
            f" {self.prompt_tokens:,} prompt and {self.completion_tokens:,} completion tokens"
        )
        if price is None:
            return text
        return f"{text}; cost {self.money(price):,.2f} at the given price"

    def money(self, price: tuple[float, float]) -> float:
        """Return the cost of this run's tokens at a price per million, see `describe`."""
        return (self.prompt_tokens * price[0] + self.completion_tokens * price[1]) / _MILLION


class ReplyFile:
    """Append-only JSON Lines file of replies by key; only the positions of its lines are in memory.

    Broken lines are ignored, such as the last line after a crash.

    Args:
        path: path of the file; created if it does not exist.

    Raises:
        ConfigError: if the file contains something else, cannot be written, or is open in another process.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._offsets: dict[bytes, int] = {}
        self._file: IO[bytes] | None = None

    def __len__(self) -> int:
        return len(self._offsets)

    def __enter__(self) -> Self:
        with teaching_disk_errors(f"{self.path} cannot be written", ConfigError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.fdopen(open_own(self.path, os.O_RDWR | os.O_APPEND), "a+b")
        try:
            self._lock(self._file)
            self._index(self._file)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        with teaching_disk_errors(f"replies cannot be stored in {self.path}", ConfigError), self._file:
            self._file.flush()
            os.fsync(self._file.fileno())

    def _lock(self, file: IO[bytes]) -> None:
        """Take the file for this process, which releases it by closing it or by ending, however it ends."""
        try:
            taken = lock_descriptor(file.fileno(), blocking=False)
        except OSError:  # a file system without locks
            taken = True
        if not taken:
            raise ConfigError(
                f"{self.path}: another process asks and stores replies here, and both would pay for the same ones. Wait"
                " until it has ended, or name another file with --replies"
            )

    def find(self, key: str) -> Reply | None:
        """Return the reply stored under a key, or None."""
        offset = self._offsets.get(bytes.fromhex(key))
        if offset is None:
            return None
        assert self._file is not None, "ReplyFile.find must be called inside of a with block"
        self._file.seek(offset)
        found = _parsed(self._file.readline())
        return found[1] if found else None

    def add(self, key: str, reply: Reply) -> None:
        """Append a reply; it has been passed to the operating system when this returns."""
        assert self._file is not None, "ReplyFile.add must be called inside of a with block"
        offset = self._file.seek(0, os.SEEK_END)
        values = {name: getattr(reply, name) for name in _STORED}
        with teaching_disk_errors(f"a reply cannot be stored in {self.path}", ConfigError):
            self._file.write(json.dumps({"key": key, **values}).encode() + b"\n")
            self._file.flush()
        self._offsets[bytes.fromhex(key)] = offset

    def _index(self, file: IO[bytes]) -> None:
        file.seek(0)
        offset, lines, last = 0, 0, b"\n"
        for last in file:
            if found := _parsed(last):
                self._offsets[bytes.fromhex(found[0])] = offset
            offset, lines = offset + len(last), lines + 1
        if lines > 1 and not self._offsets:
            raise ConfigError(f"{self.path}: expected a file of replies, got {lines} lines of something else")
        if not last.endswith(b"\n"):
            file.write(b"\n")


_STORED = {"text": str, "finish_reason": str, "prompt_tokens": int, "completion_tokens": int}


def _parsed(line: bytes) -> tuple[str, Reply] | None:
    """Parse the key and the reply of a line; None if the line is incomplete or invalid."""
    try:
        values = parse_json(line, lenient=True)
        bytes.fromhex(values["key"])
        if not all(isinstance(values[name], kind) for name, kind in _STORED.items()):
            return None
        return values["key"], Reply(**{name: values[name] for name in _STORED})
    except (ValueError, LookupError, TypeError):
        return None


class Asker:
    """Client of a teacher that sends every request only once and reuses stored replies.

    Args:
        teacher: the teacher to query.
        file: open file of replies; several instances may share it.

    Attributes:
        cost: counts of requests and tokens so far.
    """

    def __init__(self, teacher: Teacher, file: ReplyFile) -> None:
        self.cost = Cost()
        self._teacher = teacher
        self._file = file
        self._guard = threading.Lock()

    def ask(self, queries: Sequence[Query], decoding: Decoding) -> list[Reply | JudgeFailure]:
        """Return one reply or failure per query, in order.

        Args:
            queries: all queries are sent together. A crash loses those that have not been answered, or all of them for
                a teacher that answers in one call.
            decoding: decoding settings; with other settings, all queries are sent again.

        Raises:
            RewardError: if the teacher does not return one reply per query.
        """
        keys = [request_key(self._teacher.name, query.request, decoding) for query in queries]
        known: _Outcomes = {key: kept for key in set(keys) if (kept := self._file.find(key))}
        self.cost.reused += len(known)
        missing = {key: query for key, query in zip(keys, queries, strict=True) if key not in known}
        if missing and self._teacher.one_by_one:
            # Leaving the block waits for running calls, even after an interruption, so their replies are stored.
            with ThreadPoolExecutor(len(missing)) as pool:
                known |= self._results([pool.submit(self._sent, {each: missing[each]}, decoding) for each in missing])
        elif missing:
            known |= self._sent(missing, decoding)
        return [known[key] for key in keys]

    @staticmethod
    def _results(calls: Sequence[Future[_Outcomes]]) -> _Outcomes:
        try:
            return {key: outcome for call in calls for key, outcome in call.result().items()}
        except BaseException:
            for call in calls:
                call.cancel()
            raise

    def _sent(self, missing: dict[str, Query], decoding: Decoding) -> _Outcomes:
        outcomes = self._teacher.answer(list(missing.values()), decoding)
        if len(outcomes) != len(missing):
            raise RewardError(
                f"the teacher must return one reply per query: {len(missing)} queries, {len(outcomes)} replies"
            )
        with self._guard:
            return {key: self._stored(key, outcome) for key, outcome in zip(missing, outcomes, strict=True)}

    def _stored(self, key: str, outcome: Reply | JudgeFailure) -> Reply | JudgeFailure:
        self.cost.requests += 1
        if isinstance(outcome, JudgeFailure):
            self.cost.failed += 1
            return outcome
        # A reply can contain a lone surrogate, which cannot be encoded as UTF-8.
        reply = dataclasses.replace(outcome, text=outcome.text.encode("utf-8", "replace").decode())
        self._file.add(key, reply)
        self.cost.prompt_tokens += reply.prompt_tokens
        self.cost.completion_tokens += reply.completion_tokens
        return reply


def request_key(name: str, request: ChatRequest, decoding: Decoding) -> str:
    """Hash everything that a reply depends on to 32 hexadecimal digits: model, text, images and decoding settings."""
    about = [name, request.text, [picture.id for picture in request.pictures], dataclasses.asdict(decoding)]
    return hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16).hexdigest()
