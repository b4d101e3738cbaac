"""The search for held-out compositions in training samples."""

from __future__ import annotations

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from flexgym.shapes.splits import compositions, specs, split_of_composition
from research import leaks
from research.leaks import CHUNK, Chunk, chunks, look, search, table


def app(*words):
    import typer

    command = typer.Typer()
    command.command()(leaks.main)
    return CliRunner().invoke(command, list(map(str, words)))


@pytest.mark.parametrize("modality", ["image", "video"])
def test_a_held_out_composition_is_seen_by_both_ways(modality):
    rng = np.random.default_rng(0)
    for category, members in specs(modality, "validation").items():
        sight = look(rng, members[0])
        expected = {name for name in compositions(members[0]) if split_of_composition(name, modality) != "training"}
        assert set(sight.by_spec) == expected != set()
        assert sight.agrees
        # A caption of absence names a pair that its scenes do not show.
        assert set(sight.by_audit) == (expected if category != "absence" else set())


def test_chunks_hold_every_sample_once_and_half_are_videos():
    found = chunks(2 * CHUNK + 5, seed=3)
    assert [(chunk.modality, chunk.first, chunk.count) for chunk in found] == [
        ("image", 0, CHUNK),
        ("image", CHUNK, 3),
        ("video", 0, CHUNK),
        ("video", CHUNK, 2),
    ]
    assert len({chunk.name for chunk in found}) == 4


def test_a_finished_chunk_is_read_and_one_that_grew_is_searched_again(tmp_path):
    result = search(Chunk("image", 0, 0, 2), tmp_path)
    [file] = tmp_path.iterdir()
    file.write_text(json.dumps({**result, "leaks": ["from the file"]}))
    assert search(Chunk("image", 0, 0, 2), tmp_path)["leaks"] == ["from the file"]
    grown = search(Chunk("image", 0, 0, 3), tmp_path)
    assert grown["leaks"] == []
    assert sum(grown["samples"].values()) == 3


def result(modality, samples, **found):
    counts = {name: {"size": found.get(name, 0)} for name in ("spec", "audit", "agrees")}
    return {"chunk": {"modality": modality}, "samples": {"size": samples}, **counts, "leaks": found.get("leaks", [])}


def test_the_table_adds_up_and_names_every_leak():
    leak = {"number": 7, "category": "size", "by_spec": [], "by_audit": ["small red circle"]}
    lines = table(
        [
            result("image", 1500, agrees=1500),
            result("image", 500, audit=1, agrees=499, leaks=[leak]),
            result("video", 2000, agrees=1990),
        ]
    ).splitlines()
    assert lines[2] == "| image | size | 2,000 | 0 | 1 | 0.9995 |"
    assert lines[4] == "| all |  | 4,000 | 0 | 1 | 0.9972 |"
    assert lines[6].startswith("0 of 4,000 samples show a held-out composition by their spec, 1 by the audit")
    assert lines[7] == "- image 7, size: by spec [], by audit ['small red circle']"


@pytest.mark.slow
def test_the_command_finds_no_leak_and_resumes(tmp_path):
    done = app("--count", 20, "--out", tmp_path, "--parallel", 2)
    assert done.exit_code == 0, done.output
    assert "0 of 20 samples" in (tmp_path / "leaks.md").read_text()
    [first, second] = sorted((tmp_path / "chunks").iterdir())
    kept = json.loads(first.read_text())
    kept["leaks"] = [{"number": 0, "category": "size", "by_spec": ["3 x red circle"], "by_audit": []}]
    first.write_text(json.dumps(kept))
    before = second.stat().st_mtime_ns
    assert app("--count", 20, "--out", tmp_path).exit_code == 1
    assert second.stat().st_mtime_ns == before
