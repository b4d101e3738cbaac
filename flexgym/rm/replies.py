"""Asking models about pairs, with every reply kept on disk, so that a run that was interrupted pays for none twice."""

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
from numpy.typing import NDArray

from flexgym.core.errors import ConfigError, RewardError
from flexgym.judge.assessment import Assessment
from flexgym.judge.backends.base import Backend, ChatRequest, Decoding, Reply
from flexgym.judge.dialect import Dialect
from flexgym.judge.inputs import Inputs, encode_sample
from flexgym.judge.protocol import JudgeFailure, Outcome
from flexgym.judge.vision_judge import ask
from flexgym.rm.data import PreferencePair, Question, load_frames, load_picture, load_pictures
from flexgym.rm.data.files import MAX_PICTURES, MediaFile

_MILLION = 1_000_000
_Outcomes = dict[str, Reply | JudgeFailure]


@dataclass(frozen=True, eq=False)
class Query:
    """One request and the pair that it is about."""

    pair: PreferencePair
    request: ChatRequest


class Teacher(Protocol):
    """Whoever answers queries.

    Attributes:
        name: of what answers; replies of another name are not taken for its own.
        one_by_one: whether it is asked in many calls at once of one query each, so that every reply is kept as soon as
            it is there; else in one call.
    """

    name: str
    one_by_one: bool

    def answer(self, queries: Sequence[Query], decoding: Decoding) -> list[Reply | JudgeFailure]:
        """One reply or failure per query, in order."""
        ...


class ModelTeacher:
    """A vision-language model.

    Args:
        backend: who runs it; whoever made it closes it.
        name: see `Teacher`.
        one_by_one: see `Teacher`; for a backend that may be called from several threads, as that of servers may.
    """

    def __init__(self, backend: Backend, name: str, *, one_by_one: bool = False) -> None:
        self._backend = backend
        self.name = name
        self.one_by_one = one_by_one

    def answer(self, queries: Sequence[Query], decoding: Decoding) -> list[Reply | JudgeFailure]:
        """See `Teacher.answer`."""
        return ask(self._backend, [query.request for query in queries], decoding)


class OracleTeacher:
    """The rules of the small world, at no cost: short assessments, which a small model can learn to write."""

    name = "oracle"
    one_by_one = False

    def answer(self, queries: Sequence[Query], decoding: Decoding) -> list[Reply | JudgeFailure]:
        """See `Teacher.answer`; captions and samples of another world are refused."""
        return [self._answer(query.pair) for query in queries]

    def _answer(self, pair: PreferencePair) -> Reply | JudgeFailure:
        try:
            return Reply(oracle_text(pair))
        except ValueError as error:
            return JudgeFailure("refused", str(error))


def oracle_text(pair: PreferencePair) -> str:
    """What the oracle of the small world writes about a pair.

    Raises:
        ValueError: a caption or a sample of another world, or media that cannot be read.
    """
    from flexgym.shapes.brief import brief_assessment, view

    first, second = (view(pair.prompt, _sample(pair, side)) for side in (pair.first, pair.second))
    return brief_assessment(first, second)


def make_query(pair: PreferencePair, question: Question, inputs: Inputs) -> Query:
    """The request that a judge gets about a pair when it is used.

    Args:
        pair: in the order in which it is shown.
        question: how a judge is asked.
        inputs: how pictures are encoded.

    Raises:
        RowError: media that cannot be read.
    """
    message, sources = question.ask(pair)
    pictures = [part for image in load_pictures(sources) for part in encode_sample(np.asarray(image), inputs)]
    return Query(pair, ChatRequest(tuple(pictures), message.text))


def read_trace(reply: Reply | JudgeFailure, dialect: Dialect) -> Outcome:
    """Read a reply as strictly as something to learn from has to be read.

    What a judge in use may be forgiven is refused here: a reply that was cut off after its last bracket, and a
    personalised category that is left out because it breaks a rule, such as the ten points that two scores share.

    Args:
        reply: of a model, or why there is none.
        dialect: in which it should be.
    """
    if isinstance(reply, JudgeFailure):
        return reply
    if reply.finish_reason == "length":
        return JudgeFailure("truncated", "the reply was cut off")
    outcome = dialect.parse(reply.text, reply.finish_reason)
    if not isinstance(outcome, JudgeFailure) and outcome.left_out:
        what = "categories" if isinstance(outcome, Assessment) else "dimensions"
        return JudgeFailure("invalid", f"{outcome.left_out} {what} break the rules")
    return outcome


@dataclass
class Cost:
    """What was asked for, and what came.

    Attributes:
        requests: sent to the teacher.
        failed: those without a reply; they are asked again in the next run.
        reused: replies taken from the file.
        prompt_tokens: read by the teacher in this run.
        completion_tokens: written by it in this run.
    """

    requests: int = 0
    failed: int = 0
    reused: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def describe(self, price: tuple[float, float] | None = None) -> str:
        """One line.

        Args:
            price: of a million tokens read, and of a million written.
        """
        text = (
            f"{self.requests:,} requests ({self.failed:,} failed; {self.reused:,} replies were there already),"
            f" {self.prompt_tokens:,} prompt and {self.completion_tokens:,} completion tokens"
        )
        if price is None:
            return text
        return f"{text}; {self.money(price):,.2f} by the price given"

    def money(self, price: tuple[float, float]) -> float:
        """The tokens of this run at a price per million, see `describe`."""
        return (self.prompt_tokens * price[0] + self.completion_tokens * price[1]) / _MILLION


class ReplyFile:
    """Replies by key in a JSON Lines file that only grows; in memory are the places of its lines alone.

    A line that is broken, as the last one is after a crash, counts as not there.

    Args:
        path: made where it is missing.

    Raises:
        ConfigError: a file that holds something else.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._places: dict[bytes, int] = {}
        self._file: IO[bytes] | None = None

    def __len__(self) -> int:
        return len(self._places)

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b")
        try:
            self._index(self._file)
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def find(self, key: str) -> Reply | None:
        """The reply that is kept under a key."""
        place = self._places.get(bytes.fromhex(key))
        if place is None:
            return None
        assert self._file is not None, "a ReplyFile is read inside of a with block"
        self._file.seek(place)
        found = _parsed(self._file.readline())
        return found[1] if found else None

    def add(self, key: str, reply: Reply) -> None:
        """Append a reply; it is with the operating system when this returns."""
        assert self._file is not None, "a ReplyFile is written inside of a with block"
        place = self._file.seek(0, os.SEEK_END)
        told = {name: getattr(reply, name) for name in _KEPT}
        self._file.write(json.dumps({"key": key, **told}).encode() + b"\n")
        self._file.flush()
        self._places[bytes.fromhex(key)] = place

    def _index(self, file: IO[bytes]) -> None:
        file.seek(0)
        place, lines, last = 0, 0, b"\n"
        for last in file:
            if found := _parsed(last):
                self._places[bytes.fromhex(found[0])] = place
            place, lines = place + len(last), lines + 1
        if lines > 1 and not self._places:
            raise ConfigError(f"{self.path}: expected a file of replies, got {lines} lines of something else")
        if not last.endswith(b"\n"):
            file.write(b"\n")


_KEPT = {"text": str, "finish_reason": str, "prompt_tokens": int, "completion_tokens": int}


def _parsed(line: bytes) -> tuple[str, Reply] | None:
    """Key and reply of a line; None for one that is not whole."""
    try:
        told = json.loads(line)
        bytes.fromhex(told["key"])
        if not all(isinstance(told[name], kind) for name, kind in _KEPT.items()):
            return None
        return told["key"], Reply(**{name: told[name] for name in _KEPT})
    except (ValueError, LookupError, TypeError):
        return None


class Asker:
    """A teacher who is asked each thing once.

    Args:
        teacher: who answers.
        file: of replies, opened; it may be shared by several askers.

    Attributes:
        cost: what was asked for up to now.
    """

    def __init__(self, teacher: Teacher, file: ReplyFile) -> None:
        self.cost = Cost()
        self._teacher = teacher
        self._file = file
        self._guard = threading.Lock()

    def ask(self, queries: Sequence[Query], decoding: Decoding) -> list[Reply | JudgeFailure]:
        """A reply or failure per query, in order.

        Args:
            queries: all that go to the teacher go together. A crash loses those of them that are not there yet, or all
                of them for a teacher who answers in one call.
            decoding: how replies are sampled; with another one, everything is asked anew.

        Raises:
            RewardError: the teacher did not answer once per query.
        """
        keys = [request_key(self._teacher.name, query.request, decoding) for query in queries]
        known: _Outcomes = {key: kept for key in set(keys) if (kept := self._file.find(key))}
        self.cost.reused += len(known)
        missing = {key: query for key, query in zip(keys, queries, strict=True) if key not in known}
        if missing and self._teacher.one_by_one:
            # Leaving the block waits for what is under way, also after an interruption, so that it is kept.
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
            raise RewardError(f"the teacher must answer once per query: {len(missing)} asked, {len(outcomes)} told")
        with self._guard:
            return {key: self._kept(key, outcome) for key, outcome in zip(missing, outcomes, strict=True)}

    def _kept(self, key: str, outcome: Reply | JudgeFailure) -> Reply | JudgeFailure:
        self.cost.requests += 1
        if isinstance(outcome, JudgeFailure):
            self.cost.failed += 1
            return outcome
        # A reply can hold half of a surrogate pair, which no file can.
        reply = dataclasses.replace(outcome, text=outcome.text.encode("utf-8", "replace").decode())
        self._file.add(key, reply)
        self.cost.prompt_tokens += reply.prompt_tokens
        self.cost.completion_tokens += reply.completion_tokens
        return reply


def request_key(name: str, request: ChatRequest, decoding: Decoding) -> str:
    """What a reply depends on, as 32 hexadecimal digits: who is asked, the text, the pictures, and the decoding."""
    about = [name, request.text, [picture.id for picture in request.pictures], dataclasses.asdict(decoding)]
    return hashlib.blake2b(json.dumps(about, sort_keys=True).encode(), digest_size=16).hexdigest()


def _sample(pair: PreferencePair, side: tuple[MediaFile, ...]) -> NDArray[np.uint8]:
    """A candidate as a sample of the small world, with all of its frames."""
    if pair.kind == "image":
        return np.asarray(load_picture(side[0]))
    if side[0].is_video:
        return load_frames(side[0], MAX_PICTURES)
    return np.stack([np.asarray(load_picture(file)) for file in side])
