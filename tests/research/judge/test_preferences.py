from __future__ import annotations

import numpy as np
from typer import Typer
from typer.testing import CliRunner

from flexgym.data import PreferencePair, load_picture, read_rows
from flexgym.shapes.captions import parse_caption
from flexgym.shapes.splits import compositions, split_of
from flexgym.shapes.verifier import verify
from research.judge.preferences import main


def run(*words):
    app = Typer()
    app.command()(main)
    return CliRunner().invoke(app, [str(word) for word in words])


def test_the_label_is_the_verifiers(tmp_path):
    out = tmp_path / "pairs.jsonl"
    result = run(out, "--count", 30, "--split", "test", "--rule", "one_whole", "--seed", 5)
    assert result.exit_code == 0, result.output
    rows = list(read_rows([out], PreferencePair))
    assert len(rows) == 30
    for row in rows:
        met = [verify(row.prompt, np.asarray(load_picture(side[0]))).satisfied for side in (row.first, row.second)]
        assert met == [row.winner == 0, row.winner == 1]
        assert split_of(compositions(parse_caption(row.prompt)), "image") == "test"
    assert 5 < sum(row.winner for row in rows) < 25


def test_videos_are_kept_as_all_their_frames(tmp_path):
    out = tmp_path / "pairs.jsonl"
    assert run(out, "--count", 4, "--kind", "video").exit_code == 0
    for row in read_rows([out], PreferencePair):
        assert len(row.first) == len(row.second) == 9


def test_no_candidate_is_in_two_pairs_and_seeds_repeat(tmp_path):
    texts = []
    for name in ("a", "b"):
        out = tmp_path / name / "pairs.jsonl"
        assert run(out, "--count", 20, "--seed", 1).exit_code == 0
        texts.append(out.read_text())
    assert texts[0] == texts[1]
    rows = read_rows([tmp_path / "a" / "pairs.jsonl"], PreferencePair)
    used = [(row.id.rsplit("-", 2)[0], place) for row in rows for place in row.id.rsplit("-", 2)[1:]]
    assert len(used) == len(set(used)) == 40


def test_unknown_names_and_files_that_are_there_are_refused(tmp_path):
    out = tmp_path / "pairs.jsonl"
    for words, expected in ((("--rule", "one"), "one_whole"), (("--split", "tests"), "test")):
        result = run(out, *words)
        assert result.exit_code == 2
        assert expected in result.stderr
    out.write_text("")
    assert "already exists" in run(out).stderr
