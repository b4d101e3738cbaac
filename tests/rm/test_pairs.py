"""Pairs of traces: which trace is chosen and why, and the two trajectory judges."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from flexgym.core.errors import ConfigError
from flexgym.data import DPORow, Question, read_rows
from flexgym.judge.inputs import Inputs
from flexgym.judge.parser import parse_assessment
from flexgym.rm.command import app
from flexgym.rm.items import ItemOptions
from flexgym.rm.pairs import PairMaker, TraceSampling
from flexgym.rm.replies import Asker, ReplyFile, make_query
from flexgym.rm.trajectory import Contest, RulesTrajectoryJudge, TeacherTrajectoryJudge, reasoning_worth
from tests.data.builders import write_lines
from tests.judge.backends.scripted_server import ScriptedServer
from tests.rm.traces import number_of, placed, rendered_pair, server_teacher, told, truth_of, write_pairs

WINNERS = [0, 1, 0, 0, 1, 0, 0, None]
# Both traces of each of these pairs.
TRACES = [
    (told(0), told(1)),  # one right
    (told(0), told(1)),  # one right, the second
    (told(0), "No idea."),  # one right, the other none that can be read
    (told(1), told(1, "again")),  # both wrong
    (told(1, "GOOD"), told(1, "poor")),  # both right
    (told(0, "same"), told(0, "same")),  # both right, and the same
    (told(0), ""),  # one right, the other empty
    (told(0), told(1)),
]


def trace(body, identity, serial):
    return TRACES[number_of(identity)][body["seed"]]


class Always:
    """A trajectory judge that knows its answers."""

    def __init__(self, *answers):
        self.answers, self.contests = list(answers), []

    def better(self, contests):
        self.contests += contests
        return [self.answers.pop(0) for _ in contests]


def run(server, folder, trajectory, *, out="dpo.jsonl", batch=3):
    """Make pairs of the items of a folder; the report, the rows and the asker."""
    items = ItemOptions([folder / "pairs.jsonl"], orders="given", batch=batch)
    with ReplyFile(folder / "replies.jsonl") as file:
        asker = Asker(server_teacher(server), file)
        report = PairMaker(asker, trajectory).write(items, folder / out)
    return report, {row.id: row for row in read_rows(folder / out, DPORow)}, asker


def test_shares_by_hand(tmp_path):
    write_pairs(tmp_path, WINNERS)
    judge = Always(1)
    with ScriptedServer(answer=trace, record=True) as server:
        report, rows, _ = run(server, tmp_path, judge)
    assert {(body["temperature"], body["seed"]) for body in server.bodies} == {(0.7, 0), (0.7, 1)}
    assert report.lines() == [
        "items: 7",
        "one_right: 4 (57.1%)",
        "both_right: 2 (28.6%)",
        "both_wrong: 1 (14.3%)",
        "no_reply: 0 (0.0%)",
        "kept: 4 (57.1%)",
        "  one_right: 3 (42.9%)",
        "  both_right: 1 (14.3%)",
        "discarded: 2 (28.6%)",
        "  rejected_invalid: 1 (14.3%)",
        "  same_trace: 1 (14.3%)",
        "not asked: 1 pairs",
        "  tie: 1",
    ]
    assert [(row.id, row.rule) for row in rows.values()] == [
        ("0", "one_right"),
        ("1", "one_right"),
        ("2", "one_right"),
        ("4", "both_right"),
    ]
    for number, better in (("0", 0), ("1", 1), ("2", 0), ("4", 1)):
        both = TRACES[int(number)]
        assert (rows[number].chosen, rows[number].rejected) == (both[better], both[1 - better])
    assert [contest.query.pair.id for contest in judge.contests] == ["4"]


def test_the_ablation_leaves_out_items_with_two_right_traces(tmp_path):
    write_pairs(tmp_path, WINNERS)
    with ScriptedServer(answer=trace) as server:
        report, rows, _ = run(server, tmp_path, None)
    assert {row.rule for row in rows.values()} == {"one_right"}
    assert report.kept == {"one_right": 3}
    assert report.discarded == {"both_right_left_out": 2, "rejected_invalid": 1}


def test_an_undecided_contest_gives_no_row(tmp_path):
    write_pairs(tmp_path, [0, 0])
    with ScriptedServer(answer=lambda body, *_: told(0, str(body["seed"]))) as server:
        report, rows, _ = run(server, tmp_path, Always(None, 0))
    assert list(rows) == ["1"]
    assert (report.kept, report.discarded) == ({"both_right": 1}, {"undecided": 1})


class Interrupted:
    """A trajectory judge whose user presses Ctrl-C."""

    def better(self, contests):
        raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_and_pays_for_nothing_twice(tmp_path):
    write_pairs(tmp_path, WINNERS)
    with ScriptedServer(answer=trace) as server:
        with pytest.raises(KeyboardInterrupt):
            run(server, tmp_path, Interrupted())
        # Two batches of three pairs, twice each.
        assert server.chats == 12
        assert not (tmp_path / "dpo.jsonl").exists()
        report, _, asker = run(server, tmp_path, Always(0))
    assert server.chats == 14
    assert (asker.cost.requests, asker.cost.reused) == (2, 12)
    assert report.items == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"temperature": 0.0}, "above 0"), ({"temperature": float("nan")}, "above"), ({"seeds": (3, 3)}, "3 twice")],
)
def test_two_traces_must_be_able_to_differ(settings, message):
    with pytest.raises(ConfigError, match=message):
        TraceSampling(**settings)


def contest_of(folder, row, one, other):
    query = make_query(placed(row, folder), Question(), Inputs())
    return Contest(query, (one, other), (parse_assessment(one), parse_assessment(other)))


def changed(assessment, change):
    copy = json.loads(json.dumps(assessment))
    change(copy)
    return copy


def _dims(told):
    return [dim for category in told["categories"] for dim in category["dims"]]


def _other_evidence(told):
    for dim in _dims(told):
        dim["reason_1"] = "looks nice"


def _one_more_thing(told):
    shown = _dims(told)[0]
    shown["reason_1"] = "blue cross, " + shown["reason_1"]


def _turned_scores(told):
    for category in told["categories"]:
        for dim in category["dims"]:
            dim["score_1"], dim["score_2"] = dim["score_2"], dim["score_1"]


def _no_personal_category(told):
    del told["categories"][3:]


def _another_personal_category(told):
    told["categories"][3]["name"] = "D. Mood"


def _repeated(told):
    told["categories"][0]["dims"] *= 2


def _against_most_categories(told):
    other = "Image 2" if told["winner"] == "Image 1" else "Image 1"
    for category in told["categories"]:
        category["cat_winner"] = other


WORSE = [
    _other_evidence,
    _one_more_thing,
    _turned_scores,
    _no_personal_category,
    _another_personal_category,
    _repeated,
    _against_most_categories,
]


@pytest.mark.parametrize("worse", WORSE)
def test_rules_prefer_the_truth(worse, tmp_path):
    row = rendered_pair(tmp_path, 1)
    truth = truth_of(row, tmp_path)
    texts = json.dumps(truth), json.dumps(changed(truth, worse))
    rules = RulesTrajectoryJudge()
    contests = [contest_of(tmp_path, row, *texts), contest_of(tmp_path, row, *texts[::-1])]
    assert rules.better(contests) == [0, 1]
    assert rules.better([contest_of(tmp_path, row, texts[1], texts[1])]) == [None]


def test_worth_by_hand(tmp_path):
    truth = truth_of(rendered_pair(tmp_path, 1), tmp_path)
    read = parse_assessment(json.dumps(truth))
    assert reasoning_worth(read, read) == dict.fromkeys(("grounding", "fit", "agreement", "variety"), 1.0)
    bare = parse_assessment(json.dumps(changed(truth, _no_personal_category)))
    assert reasoning_worth(bare, read) == {"grounding": 1.0, "fit": 0.5, "agreement": 1.0, "variety": 1.0}
    loose = parse_assessment(json.dumps(changed(truth, _other_evidence)))
    assert reasoning_worth(loose, read)["grounding"] == pytest.approx(2 / 3)
    twice = parse_assessment(json.dumps(changed(truth, _repeated)))
    first, every = len(truth["categories"][0]["dims"]), len(_dims(truth))
    assert reasoning_worth(twice, read)["variety"] == pytest.approx(every / (every + first))


@pytest.mark.parametrize(
    ("truth", "said", "is_so"),
    [
        ("measured at 0.90 of 1", "measured at 0.95 of 1", True),
        ("measured at 0.90 of 1", "measured at 0.75 of 1", False),
        ("shows 3 where 2 is asked for", "shows 3 where 2 is asked for", True),
        ("shows 3 where 2 is asked for", "shows 4 where 2 is asked for", False),
        ("as asked for", "wrong in colour", False),
        ("as asked for", "as asked for 1", False),
    ],
)
def test_measures_may_be_near_but_counts_must_be_right(truth, said, is_so):
    both = json.loads(told(0)), json.loads(told(0))
    for assessment, reason in zip(both, (said, truth), strict=True):
        for dim in _dims(assessment):
            dim["reason_1"] = reason
    worth = reasoning_worth(*(parse_assessment(json.dumps(each)) for each in both))
    assert worth["grounding"] == pytest.approx(1.0 if is_so else 2 / 3)


def test_rules_know_the_small_world_alone(tmp_path):
    write_pairs(tmp_path, [0])
    row = {"prompt": "a cat", "kind": "image", "first": "0a.png", "second": "0b.png", "winner": 0}
    with pytest.raises(ConfigError, match="name a teacher as trajectory judge"):
        RulesTrajectoryJudge().better([contest_of(tmp_path, row, told(0), told(0, "x"))])


def prefers(word):
    """A server's answer: the review that holds a word is better."""

    def answer(body, identity, serial):
        text = body["messages"][0]["content"][-1]["text"]
        return f"I looked.\nBetter: {1 if word in text.split('Review 2:')[0] else 2}"

    return answer


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (prefers("GOOD"), [0, 1]),
        (prefers("poor"), [1, 0]),
        (lambda *_: "Better: 1", [None, None]),
        (lambda *_: "**Better: Review 2**", [None, None]),
        (lambda *_: "Both are fine.", [None, None]),
        (lambda *_: "Better: 1\nBetter: 2", [None, None]),
    ],
)
def test_a_teacher_is_asked_in_both_orders(answer, expected, tmp_path):
    write_pairs(tmp_path, [0])
    row = {"prompt": "a {first} <|im_end|> cat", "kind": "image", "first": "0a.png", "second": "0b.png", "winner": 0}
    texts = told(0, "GOOD {second}"), told(0, "poor")
    contests = [contest_of(tmp_path, row, *texts), contest_of(tmp_path, row, *texts[::-1])]
    with ScriptedServer(answer=answer, record=True) as server, ReplyFile(tmp_path / "r.jsonl") as file:
        assert TeacherTrajectoryJudge(Asker(server_teacher(server), file)).better(contests) == expected
        # The second contest puts the same two questions in the other order.
        assert server.chats == 2
    content = server.bodies[0]["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url", "image_url", "text"]
    assert '"a {first} \\u003c|im_end|> cat"' in content[-1]["text"]
    assert json.dumps(texts[0]) in content[-1]["text"]
    assert json.dumps(texts[1]) in content[-1]["text"]


def test_the_command_with_a_teacher(tmp_path, monkeypatch):
    pairs = write_pairs(tmp_path, WINNERS)
    monkeypatch.setenv("TEACHER_KEY", "secret")
    with ScriptedServer(answer=trace) as judge, ScriptedServer(answer=prefers("GOOD"), api_key="secret") as teacher:
        arguments = ["pairs", str(pairs), "--judge", judge.url, "--trajectory", teacher.url, "--orders=given"]
        arguments += ["--out", str(tmp_path / "dpo.jsonl"), "--price", "1000", "10000"]
        arguments += ["--trajectory-key-env", "TEACHER_KEY"]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        assert (judge.chats, teacher.chats) == (14, 2)
        again = CliRunner().invoke(app, [*arguments, "--overwrite"])
        assert again.exit_code == 0, again.output
        assert (judge.chats, teacher.chats) == (14, 2)
    lines = result.output.splitlines()
    assert "kept: 4 (57.1%)" in lines
    # 1,400 tokens read and 140 written, then 200 and 20.
    assert [line.rsplit("; ")[-1] for line in lines if "requests (" in line] == [
        "cost 2.80 at the given price",
        "cost 0.40 at the given price",
    ]
    rows = {row.id: row for row in read_rows(tmp_path / "dpo.jsonl", DPORow)}
    assert rows["4"].rule == "both_right"
    assert rows["4"].chosen == TRACES[4][0]


def test_the_command_with_rules(tmp_path):
    rows = [rendered_pair(tmp_path, seed) for seed in range(2)]
    truths = {row["prompt"]: truth_of(row, tmp_path) for row in rows}
    assert len(truths) == 2
    pairs = write_lines(tmp_path / "pairs.jsonl", rows)

    def answer(body, identity, serial):
        text = body["messages"][0]["content"][-1]["text"]
        truth = next(truth for prompt, truth in truths.items() if json.dumps(prompt) in text)
        return json.dumps(truth if body["seed"] else changed(truth, _other_evidence))

    with ScriptedServer(answer=answer) as server:
        arguments = ["pairs", str(pairs), "--judge", server.url, "--trajectory", "rules", "--orders=given"]
        result = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "dpo.jsonl")])
    assert result.exit_code == 0, result.output
    assert "  both_right: 2 (100.0%)" in result.output.splitlines()
    made = list(read_rows(tmp_path / "dpo.jsonl", DPORow))
    assert [json.loads(row.chosen) for row in made] == [truths[row["prompt"]] for row in rows]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "--without-both-right"),
        (["--trajectory", "nowhere"], "nowhere"),
        (["--trajectory", "oracle"], "use rules"),
        (["--trajectory", "rules", "--dialect", "think"], "flex"),
        (["--without-both-right", "--temperature", "0"], "above 0"),
        (["--without-both-right", "--out", "dpo.json"], ".jsonl"),
    ],
)
def test_mistakes_are_told(more, message, tmp_path):
    pairs = write_pairs(tmp_path, [0])
    with ScriptedServer() as server:
        arguments = ["pairs", str(pairs), "--judge", server.url, "--out", str(tmp_path / "dpo.jsonl"), *more]
        if "dpo.json" in more:
            arguments[-1] = str(tmp_path / "dpo.json")
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert message in " ".join(result.output.split())
    assert server.chats == 0
