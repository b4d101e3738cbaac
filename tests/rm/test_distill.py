"""Traces of a teacher: which are kept, what an interruption costs, and the small world's own teacher."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.data import PreferencePair, Question, SFTRow, read_rows, shuffle_sides
from flexgym.judge.backends.base import Decoding
from flexgym.judge.parser import parse_assessment
from flexgym.rm.command import app
from flexgym.rm.distill import distill
from flexgym.rm.items import ItemOptions
from flexgym.rm.replies import Asker, OracleTeacher, ReplyFile
from tests.data.builders import write_lines
from tests.judge.backends.scripted_server import Script, ScriptedServer
from tests.rm.traces import number_of, placed, rendered_pair, server_teacher, told, write_pairs

WINNERS = [0, 1, 1, 0, 0, 0, None, None]
# Of the pairs above: right, right, wrong, no JSON, a sum of 11 in the category of its own, right; ties.
ANSWERS = [told(0), told(1), told(0), "Both are fine.", told(0, sums=(10, 10, 10, 11)), told(0), told(1), told(0)]


def answer(body, identity, serial):
    return ANSWERS[number_of(identity)]


def run(server, folder, *, teacher=None, batch=2, **options):
    """Distil the pairs of a folder; the report and the asker."""
    items = ItemOptions([folder / "pairs.jsonl"], orders="given", batch=batch, **options)
    with ReplyFile(folder / "replies.jsonl") as file:
        asker = Asker(teacher or server_teacher(server), file)
        return distill(asker, items, folder / "traces.jsonl"), asker


def test_what_is_kept_and_what_is_not(tmp_path):
    write_pairs(tmp_path, WINNERS)
    with ScriptedServer(answer=answer) as server:
        report, asker = run(server, tmp_path)
    assert server.chats == asker.cost.requests == 6
    assert report.lines() == [
        "asked: 6 pairs",
        "answered: 6 (100.0%)",
        "parsed: 4 (66.7%)",
        "agreed: 3 (50.0%)",
        "kept: 3 (50.0%)",
        "rejected: 3 (50.0%)",
        "  disagrees: 1 (16.7%)",
        "  invalid: 1 (16.7%)",
        "  unparsable: 1 (16.7%)",
        "not asked: 2 pairs",
        "  tie: 2",
    ]
    rows = list(read_rows(tmp_path / "traces.jsonl", SFTRow))
    assert [row.id for row in rows] == ["0", "1", "5"]
    assert [row.reply for row in rows] == [ANSWERS[0], ANSWERS[1], ANSWERS[5]]
    pairs = list(read_rows(tmp_path / "pairs.jsonl", PreferencePair))
    assert rows[1].prompt == (Question().ask(pairs[1])[0],)
    assert rows[1].images == (*pairs[1].first, *pairs[1].second)


def test_ties_are_asked_about_where_that_is_wanted(tmp_path):
    write_pairs(tmp_path, [None, 1])
    with ScriptedServer(answer=lambda *_: told(0)) as server:
        report, _ = run(server, tmp_path, ties=True)
    assert server.chats == 2
    assert (report.asked, report.agreed, report.kept, report.rejected) == (2, 1, 1, {"disagrees": 1})


def test_a_reply_that_was_cut_off_is_not_kept(tmp_path):
    write_pairs(tmp_path, [0, 0])
    with ScriptedServer(Script(cut_off=1.0)) as server:
        report, _ = run(server, tmp_path)
    assert (report.answered, report.kept, report.rejected) == (2, 0, {"truncated": 2})


class Interrupted:
    """A teacher whose user presses Ctrl-C when a batch is due."""

    one_by_one = False

    def __init__(self, teacher, batches):
        self.name, self.teacher, self.left = teacher.name, teacher, batches

    def answer(self, queries, decoding):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return self.teacher.answer(queries, decoding)


@pytest.mark.parametrize("cut", [0, 30])
def test_an_interrupted_run_goes_on_and_pays_for_nothing_twice(tmp_path, cut):
    """With ``cut``, the last line is half written, so that one reply is lost."""
    write_pairs(tmp_path, WINNERS)
    with ScriptedServer(answer=answer) as server:
        with pytest.raises(KeyboardInterrupt):
            run(server, tmp_path, teacher=Interrupted(server_teacher(server), 2))
        assert server.chats == 4
        assert not (tmp_path / "traces.jsonl").exists()
        replies = tmp_path / "replies.jsonl"
        if cut:
            replies.write_bytes(replies.read_bytes()[:-cut])
        report, asker = run(server, tmp_path)
    lost = 1 if cut else 0
    assert server.chats == 6 + lost
    assert (asker.cost.requests, asker.cost.reused) == (2 + lost, 4 - lost)
    assert (asker.cost.prompt_tokens, asker.cost.completion_tokens) == (100 * (2 + lost), 10 * (2 + lost))
    assert (report.asked, report.parsed, report.agreed, report.kept) == (6, 4, 3, 3)


def test_another_teacher_or_decoding_is_asked_anew(tmp_path):
    write_pairs(tmp_path, [0, 1])
    items = ItemOptions([tmp_path / "pairs.jsonl"], orders="given")
    with ScriptedServer() as server, ReplyFile(tmp_path / "replies.jsonl") as file:
        for name, tokens, chats in [("a", 9, 2), ("a", 9, 2), ("b", 9, 4), ("b", 8, 6)]:
            asker = Asker(server_teacher(server, name), file)
            out = tmp_path / "traces.jsonl"
            distill(asker, items, out, decoding=Decoding(max_tokens=tokens), overwrite=True)
            assert server.chats == chats


def small_world(folder):
    """Six image pairs, two of them with the wrong label, and a video."""
    rows = [rendered_pair(folder, seed) for seed in range(6)] + [rendered_pair(folder, 6, "video")]
    rows[1]["winner"] = rows[4]["winner"] = 1
    return rows, write_lines(folder / "pairs.jsonl", rows)


def test_the_oracle_teaches_the_small_world(tmp_path):
    rows, pairs = small_world(tmp_path)
    with ReplyFile(tmp_path / "replies.jsonl") as file:
        asker = Asker(OracleTeacher(), file)
        report = distill(asker, ItemOptions([pairs], seed=3), tmp_path / "traces.jsonl")
    assert (report.asked, report.parsed, report.kept, report.rejected) == (7, 7, 5, {"disagrees": 2})
    traces = list(read_rows(tmp_path / "traces.jsonl", SFTRow))
    assert [trace.id for trace in traces] == ["0", "2", "3", "5", "6"]
    assert [len(trace.images) for trace in traces] == [2, 2, 2, 2, 16]
    shown = [shuffle_sides(placed(rows[int(trace.id)], tmp_path), 3) for trace in traces]
    assert {pair.winner for pair in shown} == {0, 1}
    assert [parse_assessment(trace.reply).side for trace in traces] == [pair.winner for pair in shown]
    assert [trace.images[0] for trace in traces] == [pair.first[0] for pair in shown]
    assert [trace.category for trace in traces] == [rows[int(trace.id)]["category"] for trace in traces]


def test_both_orders_are_two_traces(tmp_path):
    _, pairs = small_world(tmp_path)
    with ReplyFile(tmp_path / "replies.jsonl") as file:
        asker = Asker(OracleTeacher(), file)
        report = distill(asker, ItemOptions([pairs], orders="both"), tmp_path / "traces.jsonl")
    assert (report.asked, report.kept) == (14, 10)
    traces = list(read_rows(tmp_path / "traces.jsonl", SFTRow))
    for one, other in zip(traces[::2], traces[1::2], strict=True):
        half = len(one.images) // 2
        assert (one.id, one.images) == (other.id, other.images[half:] + other.images[:half])
        assert {parse_assessment(trace.reply).side for trace in (one, other)} == {0, 1}


def test_orders_have_names(tmp_path):
    with pytest.raises(UnknownNameError, match="bth.*both"):
        ItemOptions([tmp_path / "pairs.jsonl"], orders="bth")


def test_the_oracle_refuses_another_world(tmp_path):
    write_pairs(tmp_path, [0])
    report, asker = run(None, tmp_path, teacher=OracleTeacher())
    assert (report.answered, report.rejected, asker.cost.failed) == (0, {"refused": 1}, 1)


def test_the_command(tmp_path):
    _, pairs = small_world(tmp_path)
    arguments = ["distill", str(pairs), "--teacher", "oracle", "--out", str(tmp_path / "traces.jsonl")]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "kept: 5 (71.4%)" in result.output.splitlines()
    assert "teacher: 7 requests (0 failed; 0 replies reused)" in result.output
    assert len((tmp_path / "traces.replies.jsonl").read_text().splitlines()) == 7
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 2
    assert "already exists" in " ".join(again.output.split())
    assert "requests" not in again.output
    result = CliRunner().invoke(app, [*arguments, "--overwrite", "--price", "1", "2"])
    assert "0 requests (0 failed; 7 replies reused)" in result.output
    assert "cost 0.00 at the given price" in result.output


def test_the_command_asks_a_server_with_a_key(tmp_path, monkeypatch):
    pairs = write_pairs(tmp_path, [0, 1])
    monkeypatch.setenv("TEACHER_KEY", "secret")
    with ScriptedServer(api_key="secret", models=("a", "b"), record=True) as server:
        arguments = ["distill", str(pairs), "--teacher", server.url, "--out", str(tmp_path / "t.jsonl")]
        result = CliRunner().invoke(
            app, [*arguments, "--api-key-env", "TEACHER_KEY", "--model", "b", "--orders", "given"]
        )
    assert result.exit_code == 0, result.output
    assert [body["model"] for body in server.bodies] == ["b", "b"]
    assert "kept: 1 (50.0%)" in result.output
    assert "secret" not in (tmp_path / "t.replies.jsonl").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--teacher", "nowhere"], "nowhere"),
        (["--teacher", "oracle", "--dialect", "fex"], "flex"),
        (["--teacher", "oracle", "--dialect", "think"], "is rule-based"),
        (["--teacher", "oracle", "--batch", "0"], "batch: expected at least 1"),
        (["--teacher", "oracle", "--num-frames", "33"], "at most 32"),
        (["--teacher", "oracle", "--max-bad-share", "2"], "0 to 1"),
        (["--teacher", "http://127.0.0.1:9/v1", "--api-key-env", "NOT_THERE"], "NOT_THERE"),
        (["--teacher", "nowhere", "--model", "x"], "addresses"),
    ],
)
def test_mistakes_are_told(more, message, tmp_path):
    pairs = write_pairs(tmp_path, [0])
    result = CliRunner().invoke(app, ["distill", str(pairs), "--out", str(tmp_path / "t.jsonl"), *more])
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())


def test_the_file_of_replies_holds_what_was_rejected_too(tmp_path):
    write_pairs(tmp_path, WINNERS)
    with ScriptedServer(answer=answer) as server:
        run(server, tmp_path)
    kept = [json.loads(line) for line in (tmp_path / "replies.jsonl").read_text().splitlines()]
    assert sorted(line["text"] for line in kept) == sorted(ANSWERS[:6])
    assert {(line["finish_reason"], line["prompt_tokens"], line["completion_tokens"]) for line in kept} == {
        ("stop", 100, 10)
    }


def test_an_output_that_is_there_is_refused_before_anything_is_asked(tmp_path):
    write_pairs(tmp_path, [0])
    (tmp_path / "traces.jsonl").touch()
    with ScriptedServer() as server, pytest.raises(ConfigError, match="already exists"):
        run(server, tmp_path)
    assert server.chats == 0
