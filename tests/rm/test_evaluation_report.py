"""Reports of an evaluation, and the command that writes them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flexgym.commands.judge_options import JudgeOptions
from flexgym.core.errors import ConfigError
from flexgym.judge.sources import CONFIG_NAME
from flexgym.judge.verdict import Verdict
from flexgym.rm.command import app
from flexgym.rm.evaluation_figures import PairResult, Vote, summarize
from flexgym.rm.evaluation_report import markdown, prepare_folder, recorded, write_report
from flexgym.rm.evaluation_run import EvaluationRun
from flexgym.shapes.captions import parse_caption
from flexgym.shapes.oracle import read_facts
from flexgym.shapes.sampling import draw_caption, draw_clip, draw_scene, draw_spec, wrong_spec
from flexgym.shapes.scenes import render
from tests.data.builders import write_images, write_lines
from tests.judge.backends.scripted_server import Script, ScriptedServer

RIGHT = (Vote(False, 0), Vote(True, 1))
FIRST = (Vote(False, 0), Vote(True, 0))
FAILED = (Vote(False, None, "refused"), Vote(True, 1))


def result(votes, label=0, category=None, name="1"):
    return PairResult(name, category, label, votes)


def run(*words):
    return CliRunner().invoke(app, ["evaluate", *map(str, words)])


def test_the_tables_hold_the_figures():
    summary = summarize([result(RIGHT, category="a|b"), result(FIRST, category="c"), result(FAILED)], ties="scored")
    text = markdown(summary, {"judge": ["x"], "files": ["a.jsonl", "b.jsonl"]})
    assert "| judge | x |" in text
    assert "| files | a.jsonl, b.jsonl |" in text
    overall = next(line for line in text.splitlines() if line.startswith("| overall |"))
    assert overall.startswith("| overall | 3 | 0 | 6 | 66.7% [")
    assert "| a\\|b | 1 | 0 | 2 | 100.0% [20.7%, 100.0%] |" in text
    assert "| refused | 16.67% |" in text
    widths = {
        line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith(("| overall", "| c "))
    }
    assert len(widths) == 1


def test_json_has_null_where_there_is_nothing(tmp_path):
    folder = prepare_folder(tmp_path / "new" / "report")
    summary = summarize(recorded([result(RIGHT, label=None), result((), label=None)], folder))
    write_report(folder, summary, {"judge": "x"})
    told = json.loads((folder / "report.json").read_text(), parse_constant=pytest.fail)
    assert told["overall"]["accuracy"] == {"value": None, "low": None, "high": None, "pairs": 0}
    assert told["overall"]["ties"] == 2
    assert told["settings"] == {"judge": "x"}
    said = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    assert [each["said"] for each in said] == [[0, 0], []]
    with pytest.raises(ConfigError, match="already contains a report"):
        prepare_folder(folder)


def test_a_failure_is_written_with_its_kind():
    assert result(FAILED).to_row()["said"] == ["failed: refused", 0]


def _picture(rng, spec, kind):
    return render(draw_scene(rng, spec)) if kind == "image" else np.stack([render(s) for s in draw_clip(rng, spec)])


def _save(folder, name, sample):
    frames = sample[None] if sample.ndim == 3 else sample
    names = [f"{name}_{number}.png" for number in range(len(frames))]
    for each, frame in zip(names, frames, strict=True):
        Image.fromarray(frame).save(folder / each)
    return names[0] if sample.ndim == 3 else names


@pytest.mark.parametrize("kind", ["image", "video"])
def test_the_oracle_knows_which_one_satisfies_the_prompt(kind, tmp_path):
    rng, rows = np.random.default_rng(0), []
    while len(rows) < 12:
        spec = draw_spec(rng, kind, "training")
        caption = draw_caption(rng, spec)
        both = [_picture(rng, spec, kind), _picture(rng, wrong_spec(rng, spec), kind)]
        if [read_facts(caption, sample).share == 1.0 for sample in both] != [True, False]:
            continue
        winner = int(rng.integers(2))
        names = [_save(tmp_path, f"{len(rows)}{side}", both[side ^ winner]) for side in (0, 1)]
        about = {"prompt": caption, "kind": kind, "winner": winner, "category": parse_caption(caption).category}
        rows.append(about | {"first": names[0], "second": names[1]})
    path = write_lines(tmp_path / "pairs.jsonl", rows)
    ended = run(path, "--judge", "oracle", "--out", tmp_path / "report", "--batch", 5)
    assert ended.exit_code == 0, ended.output
    assert "accuracy, failures wrong: 100.0% [75.8%, 100.0%]" in ended.output
    told = json.loads((tmp_path / "report" / "report.json").read_text())
    assert told["overall"]["order_consistency"]["value"] == told["overall"]["accuracy"]["value"] == 1.0
    assert told["overall"]["first_position_rate"]["value"] == 0.5
    assert sum(found["pairs"] for found in told["categories"].values()) == 12
    assert told["settings"]["judge"] == ["oracle"]
    again = run(path, "--judge", "oracle", "--out", tmp_path / "report")
    assert again.exit_code == 2
    assert "already contains a report" in again.output


@pytest.fixture
def pairs(tmp_path):
    names = [f"{number}.png" for number in range(20)]
    write_images(tmp_path, *names)
    rows = [
        {"prompt": f"pair-{number}", "kind": "image", "first": f"{number}.png", "winner": number % 2, "id": number}
        for number in range(10)
    ]
    return write_lines(tmp_path / "pairs.jsonl", [row | {"second": f"{row['id'] + 10}.png"} for row in rows])


def test_a_server_that_always_names_the_first(pairs, tmp_path):
    with ScriptedServer() as server:
        ended = run(pairs, "--judge", server.url, "--out", tmp_path / "report")
    assert ended.exit_code == 0, ended.output
    assert server.good == 20
    told = json.loads((tmp_path / "report" / "report.json").read_text())["overall"]
    assert told["accuracy"]["value"] == 0.5
    assert told["first_position_rate"]["value"] == 1.0
    assert told["order_consistency"]["value"] == 0.0
    assert len((tmp_path / "report" / "pairs.jsonl").read_text().splitlines()) == 10


class FirstWins:
    def assess(self, pairs):
        return [Verdict("Image 1") for _ in pairs]


def test_the_report_says_how_many_frames_the_judge_was_shown(pairs, tmp_path):
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / CONFIG_NAME).write_text('{"inputs": {"num_frames": 5}}')
    how = {"benchmark": "pairs", "orders": "both", "media": None, "batch": 8}
    EvaluationRun([pairs], tmp_path / "report", **how).write(FirstWins(), JudgeOptions([str(tmp_path / "judge")]))
    assert "| frames of a video | 5 |" in (tmp_path / "report" / "report.md").read_text()


def test_one_order_and_the_lead_in_points(pairs, tmp_path):
    """Nine dimensions with 7 to 3 for the candidate shown first."""
    with ScriptedServer() as server:
        ended = run(pairs, "--judge", server.url, "--out", tmp_path / "report", "--orders", "given")
    assert ended.exit_code == 0, ended.output
    assert server.good == 10
    said = [json.loads(line) for line in (tmp_path / "report" / "pairs.jsonl").read_text().splitlines()]
    assert [(each["said"], each["lead"]) for each in said] == [([0], 36.0)] * 10
    assert "| orders | given |" in (tmp_path / "report" / "report.md").read_text()


def test_replies_that_are_cut_off_are_wrong_or_dropped(pairs, tmp_path):
    with ScriptedServer(Script(cut_off=1.0)) as server:
        ended = run(pairs, "--judge", server.url, "--out", tmp_path / "report")
    assert ended.exit_code == 0, ended.output
    told = json.loads((tmp_path / "report" / "report.json").read_text())["overall"]
    assert told["accuracy"]["value"] == 0.0
    assert told["accuracy_dropped"]["value"] is None
    assert told["failures"] == {"truncated": 1.0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--benchmark", "mmrb3"], "mmrb2"),
        (["--orders", "bothh"], "Did you mean 'both'"),
        (["--dialect", "flax"], "Did you mean 'flex'"),
        (["--batch", "0"], "at least 1"),
    ],
)
def test_mistakes_end_with_status_2(words, message, pairs, tmp_path):
    ended = run(pairs, "--judge", "oracle", "--out", tmp_path / "report", *words)
    assert ended.exit_code == 2
    assert message in " ".join(ended.output.split())
    assert not (tmp_path / "report").exists()


def test_a_missing_file_ends_with_status_2(tmp_path):
    ended = run(tmp_path / "gone.jsonl", "--judge", "oracle", "--out", tmp_path / "report")
    assert ended.exit_code == 2
    assert "does not exist" in " ".join(ended.output.split())
