from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flexgym.cli import app
from flexgym.shapes.scenes import Thing, render
from tests.judge.backends.scripted_server import assessment
from tests.rewards.seeing_server import seeing_server

CAPTION = "a red circle"
RIGHT = render((Thing("circle", "red", 16, 16, 6),))
WRONG = render((Thing("square", "blue", 16, 16, 6),))


def run(*words):
    return CliRunner().invoke(app, ["judge", *map(str, words)])


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "samples" / CAPTION
    folder.mkdir(parents=True)
    for name, sample in {"right": RIGHT, "wrong": WRONG, "other": WRONG[:, ::-1]}.items():
        Image.fromarray(np.ascontiguousarray(sample)).save(folder / f"{name}.png")
    return folder


@pytest.mark.parametrize("judge", ["oracle", "shapes-judge"])
def test_compare_names_the_better_one_whichever_stands_first(judge, files):
    for first, second, winner in (("right", "wrong", "Image 1"), ("wrong", "right", "Image 2")):
        words = (files / f"{first}.png", files / f"{second}.png", "--prompt", CAPTION, "--judge", judge)
        shown, written = run("compare", *words), run("compare", *words, "--json")
        assert shown.exit_code == written.exit_code == 0
        assert f"Winner: {winner}" in shown.output
        assert json.loads(written.output)["winner"] == winner


def test_a_refused_pair_is_shown_as_a_failure(files):
    words = (files / "right.png", files / "wrong.png", "--prompt", "a dog [bold]x[/bold]\x1b[2J", "--judge", "oracle")
    result = run("compare", *words)
    assert result.exit_code == 1
    assert "refused" in result.output
    assert "[bold]x[/bold]" in result.output
    assert "\x1b[2J" not in result.output


def test_rank_orders_the_samples_of_every_folder(files):
    result = run("rank", files.parent, "--judge", "oracle", "--json")
    [row] = json.loads(result.output)
    assert row["prompt"] == CAPTION
    assert max(row["rewards"], key=row["rewards"].get) == "right.png"
    shown = run("rank", files.parent, "--judge", "oracle").output
    assert shown.index("right.png") < shown.index("wrong.png")


def thoughtful(means, text):
    """Prefers the brighter image, in the dialect of UnifiedReward-Think, if it is asked in it."""
    if "<answer>" not in text:
        return assessment("x", 0)
    first, second = (mean / 26 for mean in means)
    return (
        f"<think>\n1. Semantic consistency:\n    Image 1 ({first:.1f}/10) - grey;\n    Image 2 ({second:.1f}/10) - grey"
        f"\n</think>\n<answer>Image {1 if first > second else 2} is better</answer>"
    )


@pytest.fixture
def grays(tmp_path):
    folder = tmp_path / "greys" / "a wall"
    folder.mkdir(parents=True)
    for level in (26, 130, 208):
        Image.new("RGB", (16, 16), (level,) * 3).save(folder / f"{level:03}.png")
    return folder


@pytest.fixture
def server():
    with seeing_server(thoughtful, record=True) as running:
        yield running


def test_compare_in_the_dialect_of_unified_reward_think(grays, server):
    words = (grays / "026.png", grays / "208.png", "--prompt", "a wall", "--judge", server.url, "--dialect", "think")
    shown, written = run("compare", *words), run("compare", *words, "--json")
    assert shown.exit_code == written.exit_code == 0, shown.output
    assert "Winner: Image 2" in shown.output
    assert json.loads(written.output) == {
        "winner": "Image 2",
        "dims": [
            {"name": "Semantic consistency", "score_1": 1.0, "score_2": 8.0, "reason_1": "grey", "reason_2": "grey"}
        ],
        "left_out": 0,
    }


def test_without_a_dialect_it_is_that_of_unified_reward_flex(grays, server):
    words = ("compare", grays / "026.png", grays / "208.png", "--prompt", "a wall", "--judge", server.url, "--json")
    written = json.loads(run(*words).output)
    assert written["winner"] == "Image 1"
    assert len(written["categories"]) == 3
    assert json.loads(run(*words, "--dialect", "flex").output) == written | {"reason": "0"}


def test_a_reply_in_another_dialect_is_a_failure(grays, tmp_path, server):
    wording = tmp_path / "wording.txt"
    wording.write_text("{prompt}: answer in <answer>")
    words = ("compare", grays / "026.png", grays / "208.png", "--prompt", "a wall", "--judge", server.url, "--json")
    result = run(*words, "--prompt-template", wording)
    assert result.exit_code == 1
    assert json.loads(result.output)["failure"]["kind"] == "unparsable"
    assert run(*words, "--prompt-template", wording, "--dialect", "think").exit_code == 0


def test_rank_and_calibrate_in_the_dialect_of_unified_reward_think(grays, server):
    words = (grays.parent, "--judge", server.url, "--dialect", "think")
    [row] = json.loads(run("rank", *words, "--json").output)
    assert row == {"prompt": "a wall", "rewards": {"026.png": 0.0, "130.png": 0.5, "208.png": 1.0}}
    shown = run("rank", *words).output
    assert shown.index("208.png") < shown.index("130.png") < shown.index("026.png")
    figures = json.loads(run("calibrate", *words, "--json").output, parse_constant=pytest.fail)["judge"]
    assert figures["consistent_totals"] == 1.0
    assert figures["consistent_categories"] is None


def test_unscored_samples_are_null_in_json(grays):
    def unsure(means, text):
        bright = means.round() == 208
        return "I cannot tell." if bright.any() else thoughtful(means, text)

    with seeing_server(unsure) as server:
        for name in "ab":  # or more than half of the judgments would fail
            Image.new("RGB", (16, 16), (60, 60, 60)).save(grays / f"{name}.png")
        words = (grays.parent, "--judge", server.url, "--dialect", "think", "--json")
        [row] = json.loads(run("rank", *words).output, parse_constant=pytest.fail)
    assert row["rewards"].pop("208.png") is None
    assert all(reward is not None for reward in row["rewards"].values())


def test_rank_reads_the_prompt_beside_the_samples(files):
    (files / "prompt.txt").write_bytes(b"\xef\xbb\xbfa red circle\r\n")
    files.rename(files.with_name("whatever"))
    [row] = json.loads(run("rank", files.parent, "--judge", "oracle", "--json").output)
    assert row["prompt"] == CAPTION


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("für Élise".encode("latin-1"), "expected UTF-8 text, got other bytes at offset 1. Save the file as UTF-8."),
        (b"x" * (64 * 1024 + 1), "expected the prompt of the samples in this folder, up to 64 KiB"),
        (("é" * 40_000).encode(), "up to 64 KiB"),
        (b" \n", "expected the prompt of the samples in this folder, got an empty file"),
    ],
)
def test_a_prompt_that_cannot_be_read_is_refused(files, written, message):
    (files / "prompt.txt").write_bytes(written)
    result = run("rank", files.parent, "--judge", "oracle")
    assert result.exit_code == 2
    told = " ".join(result.output.split())
    assert message in told
    assert "prompt.txt" in told.replace(" ", "")


@pytest.mark.slow
def test_calibrate_tells_what_each_tournament_makes_of_a_noisy_judge(tmp_path):
    words = ("--judge", "oracle", "--small-world", 6, 6, "--noise", 0.8, 0.69)
    result = run("calibrate", *words, "--json", "--plot", tmp_path / "figure.png")
    assert result.exit_code == 0
    report = json.loads(result.output)
    rows = {row["tournament"]: row for row in report["tournaments"]}
    assert rows["all"]["calls"] == 15
    assert 0.5 < rows["all"]["true_cosine"] < 1.0
    assert report["judge"]["flip_rate"] > 0.0
    assert Image.open(tmp_path / "figure.png").width > 100
    assert "Cheapest within 0.03" in run("calibrate", *words).output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("rank", "nowhere", "--judge", "oracle"), "is not a folder"),
        (("compare", "a.png", "b.png", "--prompt", "x", "--judge", "oracle"), "a.png"),
        (("rank", ".", "--judge", "http://localhost:1/v1", "--backend", "servr"), "'server'"),
        (("rank", ".", "--judge", "http://localhost:1/v1", "--dialect", "thnk"), "Did you mean 'think'?"),
        (("calibrate", "--judge", "oracle", "--dialect", "flx"), "Did you mean 'flex'?"),
        (("calibrate", "--judge", "oracle", "--dialect", "think"), "leave out --dialect"),
        (("rank", ".", "--judge", "oracle", "--prompt-template", "x.txt"), "leave out --prompt-template"),
        (("rank", ".", "--judge", "http://localhost:1/v1", "--backend", "vllm"), "expects a checkpoint folder"),
    ],
)
def test_errors_teach(words, message):
    result = run(*words)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
