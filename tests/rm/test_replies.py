"""Replies on disk, and asking each thing once."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from flexgym.core.errors import CheckpointError, ConfigError, RewardError
from flexgym.data import PreferencePair, Question, read_rows
from flexgym.judge.backends.base import ChatRequest, Decoding, Picture, Reply
from flexgym.judge.backends.server import ServerBackend
from flexgym.judge.dialect import FLEX
from flexgym.judge.inputs import Inputs, read_image
from flexgym.judge.protocol import JudgeFailure
from flexgym.judge.vision_judge import VisionJudge
from flexgym.rm.replies import Asker, Cost, Query, ReplyFile, make_query, read_trace, request_key
from tests.judge.backends.scripted_server import ScriptedServer
from tests.rm.traces import server_teacher, told, write_pairs

KEYS = ["00" * 16, "01" * 16, "02" * 16]


def queries(folder, count):
    rows = read_rows(write_pairs(folder, [0] * count), PreferencePair)
    return [make_query(row, Question(), Inputs()) for row in rows]


def test_replies_are_found_again(tmp_path):
    replies = [Reply("one\ntwo", "stop", 3, 4), Reply("", "length", 5, 6), Reply("é\u2028", "stop")]
    with ReplyFile(tmp_path / "new" / "r.jsonl") as file:
        for key, reply in zip(KEYS, replies, strict=True):
            file.add(key, reply)
            assert file.find(key) == reply
    with ReplyFile(tmp_path / "new" / "r.jsonl") as file:
        assert len(file) == 3
        assert [file.find(key) for key in KEYS] == replies
        assert file.find("ff" * 16) is None


@pytest.mark.parametrize("cut", [1, 2, 40])
def test_a_half_written_last_line_is_no_reply_and_spoils_no_other(tmp_path, cut):
    path = tmp_path / "r.jsonl"
    with ReplyFile(path) as file:
        file.add(KEYS[0], Reply("whole"))
        file.add(KEYS[1], Reply("half"))
    path.write_bytes(path.read_bytes()[:-cut])
    with ReplyFile(path) as file:
        # Without its line break alone, the line is whole.
        assert file.find(KEYS[1]) == (Reply("half") if cut == 1 else None)
        file.add(KEYS[2], Reply("new"))
    with ReplyFile(path) as file:
        assert file.find(KEYS[0]) == Reply("whole")
        assert file.find(KEYS[2]) == Reply("new")


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        "null",
        json.dumps({"key": "zz"}),
        json.dumps({"key": KEYS[1]}),
        json.dumps({"key": KEYS[1], "text": 1, "finish_reason": "stop", "prompt_tokens": 0, "completion_tokens": 0}),
        json.dumps({"key": 7, "text": "", "finish_reason": "stop", "prompt_tokens": 0, "completion_tokens": 0}),
    ],
)
def test_a_broken_line_among_others_counts_as_not_there(tmp_path, line):
    path = tmp_path / "r.jsonl"
    with ReplyFile(path) as file:
        file.add(KEYS[0], Reply("before"))
    with path.open("a") as raw:
        raw.write(line + "\n")
    with ReplyFile(path) as file:
        assert len(file) == 1
        assert file.find(KEYS[0]) == Reply("before")
        assert file.find(KEYS[1]) is None


def test_a_file_of_something_else_is_left_alone(tmp_path):
    path = tmp_path / "notes.jsonl"
    path.write_text("dear\ndiary\n")
    with pytest.raises(ConfigError, match="expected a file of replies, got 2 lines"), ReplyFile(path):
        pass
    assert path.read_text() == "dear\ndiary\n"


def test_each_thing_is_asked_once(tmp_path):
    asked = queries(tmp_path, 3)
    with ScriptedServer() as server, ReplyFile(tmp_path / "r.jsonl") as file:
        asker = Asker(server_teacher(server), file)
        first = asker.ask([asked[0], asked[1], asked[0]], Decoding())
        assert server.chats == 2
        assert first[0] == first[2] != first[1]
        again = asker.ask(asked, Decoding())
        assert [reply.text for reply in again[:2]] == [reply.text for reply in first[:2]]
        assert server.chats == 3
        assert asker.cost == Cost(requests=3, reused=2, prompt_tokens=300, completion_tokens=30)
        asker.ask(asked, Decoding(temperature=0.7))
        assert server.chats == 6


class Answers:
    """Gives the scripted answers in order."""

    name = "answers"
    one_by_one = False

    def __init__(self, *outcomes):
        self.outcomes = list(outcomes)

    def answer(self, queries, decoding):
        return [self.outcomes.pop(0) for _ in queries] if len(self.outcomes) >= len(queries) else []


def test_what_failed_is_asked_again(tmp_path):
    (query,) = queries(tmp_path, 1)
    failure = JudgeFailure("timed_out", "no reply")
    with ReplyFile(tmp_path / "r.jsonl") as file:
        asker = Asker(Answers(failure, Reply("late", prompt_tokens=2)), file)
        assert asker.ask([query], Decoding()) == [failure]
        assert asker.ask([query], Decoding()) == [Reply("late", prompt_tokens=2)]
        assert asker.cost == Cost(requests=2, failed=1, prompt_tokens=2)
        with pytest.raises(RewardError, match="one reply per query: 1 queries, 0 replies"):
            asker.ask([query], Decoding(seed=5))


class Dies:
    """Answers all questions but one, at which it dies."""

    name, one_by_one = "dies", True

    def __init__(self, fatal):
        self.fatal = fatal

    def answer(self, queries, decoding):
        (query,) = queries
        if query is self.fatal:
            raise KeyboardInterrupt
        return [Reply(query.pair.prompt)]


def test_replies_are_kept_as_they_come(tmp_path):
    asked = queries(tmp_path, 5)
    with ReplyFile(tmp_path / "r.jsonl") as file:
        asker = Asker(Dies(asked[1]), file)
        with pytest.raises(KeyboardInterrupt):
            asker.ask(asked, Decoding())
        replies = [file.find(request_key("dies", query.request, Decoding())) for query in asked]
    kept = {reply.text for reply in replies if reply}
    assert replies[1] is None
    assert {"pair-0"} <= kept <= {"pair-0", "pair-2", "pair-3", "pair-4"}
    assert len(kept) == asker.cost.requests


def test_half_of_a_surrogate_pair_can_be_kept(tmp_path):
    (query,) = queries(tmp_path, 1)
    with ReplyFile(tmp_path / "r.jsonl") as file:
        (reply,) = Asker(Answers(Reply("a\ud83d")), file).ask([query], Decoding())
    assert reply.text == "a?"


def test_a_key_is_of_all_that_a_reply_depends_on():
    picture = Picture(b"", "image/png", "p")
    other = dataclasses.replace(picture, id="q")
    decodings = [Decoding(), Decoding(seed=1), Decoding(temperature=0.7), Decoding(max_tokens=9)]
    asked = [("a", ChatRequest((picture, other), "t"), decoding) for decoding in decodings]
    asked += [("b", asked[0][1], Decoding()), ("a", ChatRequest((picture, other), "u"), Decoding())]
    asked += [("a", ChatRequest((other, picture), "t"), Decoding()), ("a", ChatRequest((picture,), "t"), Decoding())]
    keys = [request_key(*each) for each in asked]
    assert len(set(keys)) == len(asked)
    assert keys == [request_key(*each) for each in asked]


def test_a_query_is_what_a_judge_in_use_sends(tmp_path):
    (query,) = queries(tmp_path, 1)
    assert isinstance(query, Query)
    with ScriptedServer(record=True) as server:
        backend = ServerBackend(server.url)
        VisionJudge(backend).compare("pair-0", *(read_image(tmp_path / name) for name in ("0a.png", "0b.png")))
        backend.complete([query.request], Decoding())
        backend.close()
    assert server.bodies[0] == server.bodies[1]


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (Reply(told(1)), None),
        (Reply(told(1), "length"), "truncated"),
        (Reply(told(1)[:200], "length"), "truncated"),
        (Reply(told(1, sums=(10, 10, 10, 11))), "invalid"),
        (Reply(told(1, sums=(9, 10, 10, 10))), "invalid"),
        (Reply("Both are fine."), "unparsable"),
        (Reply("I cannot tell."), "refused"),
        (JudgeFailure("server_error", "gone"), "server_error"),
    ],
)
def test_a_trace_is_read_strictly(reply, kind):
    outcome = read_trace(reply, FLEX)
    assert getattr(outcome, "kind", None) == kind
    if kind is None:
        assert outcome.side == 1


def test_money_by_hand():
    cost = Cost(requests=1200, failed=3, reused=7, prompt_tokens=2_500_000, completion_tokens=400_000)
    assert np.isclose(cost.money((0.3, 2.0)), 1.55)
    assert cost.describe((0.3, 2.0)) == (
        "1,200 requests (3 failed; 7 replies reused), 2,500,000 prompt and 400,000 completion tokens;"
        " cost 1.55 at the given price"
    )


HOLD = """
import sys
from flexgym.rm.replies import ReplyFile
with ReplyFile(sys.argv[1]):
    print("open", flush=True)
    sys.stdin.read()
"""


def test_two_processes_do_not_pay_for_the_same_replies(tmp_path: Path):
    """The second one is rejected, however often it tries, until the first one has ended, and be it by a kill."""
    path = tmp_path / "replies.jsonl"
    words = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "open\n"
        for _ in range(2):
            with (
                pytest.raises(ConfigError, match="another process asks and stores replies here.*--replies"),
                ReplyFile(path),
            ):
                pass
        first.kill()
        first.wait()
    with ReplyFile(path), pytest.raises(ConfigError, match="another process"), ReplyFile(path):
        pass


def test_replies_are_not_written_through_a_link(tmp_path: Path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / "replies.jsonl").symlink_to(victim)
    with pytest.raises(CheckpointError, match="is a link"), ReplyFile(tmp_path / "replies.jsonl"):
        pass
    assert victim.read_text() == "precious"
