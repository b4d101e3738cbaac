from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from flexgym.cli import app
from flexgym.shapes.scenes import Thing, render

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


def test_compare_names_the_better_one_whichever_stands_first(files):
    for first, second, winner in (("right", "wrong", "Image 1"), ("wrong", "right", "Image 2")):
        words = (files / f"{first}.png", files / f"{second}.png", "--prompt", CAPTION, "--judge", "oracle")
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
        (("rank", "nowhere", "--judge", "oracle"), "is no folder"),
        (("compare", "a.png", "b.png", "--prompt", "x", "--judge", "oracle"), "a.png"),
        (("rank", ".", "--judge", "http://localhost:1/v1", "--backend", "servr"), "'server'"),
        (("rank", ".", "--judge", "http://localhost:1/v1", "--backend", "vllm"), "expects a checkpoint folder"),
    ],
)
def test_errors_teach(words, message):
    result = run(*words)
    assert result.exit_code == 2
    assert message in result.output.replace("\n", " ")
