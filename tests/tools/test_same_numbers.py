from __future__ import annotations

import json
import pickle
import sys
import types

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tools import same_numbers
from tools.compare_runs import cells, compare, compare_runs, main, read_checkpoint
from tools.same_numbers import CASES, Case, arguments, compare_sides, make_data

EQUAL = ["2", "1", "2", "1", "equal"]


def write_run(folder, *, loss=0.5, weight=1.0, moment=2.0, pixel=7, title=255, time=1.0, state="state.pkl"):
    """A run folder of one iteration."""
    checkpoint = folder / "checkpoints" / "iteration_000001"
    for part in ("generator/transformer", "algorithm/learner"):
        (checkpoint / part).mkdir(parents=True)
    row = {"iteration": 1, "loss/policy": loss, "time/update_s": time, "judge/latency_p50": time}
    (folder / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    save_file({"w": torch.full((3,), weight)}, checkpoint / "generator/transformer/model.safetensors")
    values = {"exp_avg": torch.full((2,), moment), "ema": np.full((2,), weight), "metrics_logger": torch.tensor(time)}
    (checkpoint / "algorithm/learner" / state).write_bytes(pickle.dumps(values))
    (folder / "samples").mkdir()
    image = np.full((60, 4, 3), title, np.uint8)
    image[50:] = pixel
    Image.fromarray(image).save(folder / "samples" / "iteration_000001.png")
    return folder


@pytest.mark.parametrize(
    ("changed", "row"),
    [
        ({}, EQUAL),
        ({"time": 2.0}, EQUAL),
        ({"title": 0}, EQUAL),
        ({"state": "weights.pkl"}, EQUAL),
        (
            {"loss": 0.75},
            [
                "1 of 2 differ", "1", "2", "1",
                "metrics: iteration 1: loss/policy: 0.5 in the base, 0.75 in the head (largest of all: 0.25)",
            ],
        ),
        (
            {"moment": 2.5},
            [
                "2", "1", "1 of 2 differ", "1",
                "state: algorithm/learner/state.pkl/exp_avg: differs by 0.5 (largest of all: 0.5)",
            ],
        ),
        (
            {"pixel": 9},
            ["2", "1", "2", "1 of 1 differ", "samples: iteration_000001.png: differs by 2 (largest of all: 2)"],
        ),
    ],
)  # fmt: skip
def test_a_run_is_equal_but_for_times_titles_and_the_places_of_its_state(tmp_path, changed, row):
    base, head = write_run(tmp_path / "base"), write_run(tmp_path / "head", **changed)
    assert cells(compare_runs(base, head)) == (row, row == EQUAL)
    assert main([str(base), str(head)]) == int(row != EQUAL)


def test_a_weight_of_one_bit_more_differs(tmp_path):
    more = float(np.nextafter(np.float32(1.0), np.float32(2.0)))
    found = compare_runs(write_run(tmp_path / "base"), write_run(tmp_path / "head", weight=more))
    assert found["weights"].differences == ("generator/transformer/model.safetensors/w: differs by 1.19e-07",)
    assert found["weights"].largest == 2.0**-23


def test_a_renamed_metric_is_found(tmp_path):
    base, head = write_run(tmp_path / "base"), write_run(tmp_path / "head")
    file = head / "metrics.jsonl"
    file.write_text(file.read_text().replace("loss/policy", "loss/clipped"))
    found = compare_runs(base, head)["metrics"]
    assert found.differences == ("iteration 1: loss/policy: missing in the head",)
    assert found.added == ("iteration 1: loss/clipped",)
    assert not compare_runs(base, head, renamed={"loss/policy": "loss/clipped"})["metrics"].differences


def test_a_run_without_state_proves_nothing(tmp_path):
    base, head = write_run(tmp_path / "base", state="state.txt"), write_run(tmp_path / "head")
    with pytest.raises(ValueError, match="expected metrics and a checkpoint with state, got none"):
        compare_runs(base, head)


@pytest.mark.parametrize(
    ("base", "head", "difference", "largest"),
    [
        (1.0, 1.0, None, 0.0),
        (np.nan, np.nan, None, 0.0),
        (np.nan, 1.0, "nan in the base, 1.0 in the head", np.inf),
        (np.inf, np.inf, None, 0.0),
        (0.0, -0.0, "0.0 in the base, -0.0 in the head", 0.0),
        ("a", "b", "a in the base, b in the head", 0.0),
        ([1.0, np.nan], [1.5, np.nan], "differs by 0.5", 0.5),
        ([1.0], [1.0, 1.0], "float64[1] in the base, float64[2] in the head", 0.0),
        (1, 1.0, "int64[] in the base, float64[] in the head", 0.0),
    ],
)
def test_values_by_hand(base, head, difference, largest):
    found = compare({"x": np.asarray(base)}, {"x": np.asarray(head)})
    assert found.differences == (() if difference is None else (f"x: {difference}",))
    assert found.largest == largest


def test_state_may_move_and_each_array_counts_once():
    base = {"ema/a": np.array([1.0]), "ema/b": np.array([1.0]), "ema/c": np.array([2.0])}
    head = {"copies/ema/a": np.array([1.0]), "copies/ema/b": np.array([3.0]), "copies/ema/c": np.array([2.0])}
    assert len(compare(base, head).differences) == 3
    found = compare(base, head, moved=True)
    assert found.differences == ("ema/b (now copies/ema/b): differs by 2",)
    assert not found.added


def test_objects_are_read_without_their_class(tmp_path, monkeypatch):
    """A checkpoint of the base may hold classes that the head no longer has."""
    folder = write_run(tmp_path)
    module = types.ModuleType("flexgym.gone")
    module.Gone = type("Gone", (), {"__module__": "flexgym.gone"})
    monkeypatch.setitem(sys.modules, "flexgym.gone", module)
    gone = module.Gone()
    gone.values = [np.array([1.0])]
    file = folder / "checkpoints/iteration_000001/algorithm/learner/other_state.pkl"
    file.write_bytes(pickle.dumps({"stream": gone}))
    monkeypatch.delitem(sys.modules, "flexgym.gone")
    assert "algorithm/learner/other_state.pkl/stream/values/0" in read_checkpoint(folder)[1]


def test_names_of_the_head(tmp_path, monkeypatch):
    case = Case("flow", "agents.old --config old.yaml", ("a.x=1", "a.y={b: 2}", "a.z=off", "a.z=on", "a.file=$DATA/r"))
    places = [f"run.root={tmp_path / 'head'}", "run.name=flow"]
    words = [
        "agents.old",
        "--config",
        "old.yaml",
        "a.x=1",
        "a.y={b: 2}",
        "a.z=off",
        "a.z=on",
        f"a.file={tmp_path}/data/r",
    ]
    assert arguments(case, tmp_path, side="head") == words + places
    renamed = {"a.x": "b.x", "a.z": None, "a.z=on": "b.z=true"}
    monkeypatch.setattr(same_numbers, "RENAMED", renamed)
    monkeypatch.setattr(same_numbers, "HEAD_COMMANDS", {case.command: "agents.new", "flow": "agents.flow b.w=1"})
    assert arguments(case, tmp_path, side="base")[:-2] == words
    expected = ["agents.flow", "b.w=1", "b.x=1", "a.y={b: 2}", "b.z=true", f"a.file={tmp_path}/data/r", *places]
    assert arguments(case, tmp_path, side="head") == expected


def test_cases_have_names_of_their_own():
    assert len({case.name for case in CASES}) == len(CASES)


def test_data_is_the_same_each_time_and_made_once(tmp_path):
    (tmp_path / "flexgym/shapes/checkpoints/judge").mkdir(parents=True)
    for name in ("first", "second"):
        make_data(tmp_path / name, tmp_path)
    files = sorted(path.name for path in (tmp_path / "first").glob("*.*"))
    assert len(files) == 36
    assert all((tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes() for name in files)
    (tmp_path / "first" / "sft.jsonl").write_text("kept")
    make_data(tmp_path / "first", tmp_path)
    assert (tmp_path / "first" / "sft.jsonl").read_text() == "kept"


def test_a_case_that_did_not_run_is_no_success(tmp_path, capsys):
    cases = [Case("one", "agents.x", ()), Case("two", "agents.x", ())]
    for side in ("base", "head"):
        write_run(tmp_path / side / "one")
        (tmp_path / side / "one.json").touch()
    assert compare_sides("head", tmp_path, cases=cases[:1])
    (tmp_path / "base" / "two.json").touch()
    assert not compare_sides("head", tmp_path, cases=cases)
    assert "did not run, or failed: head" in capsys.readouterr().out


def test_command_line_compares_what_is_there(tmp_path, capsys):
    for side in ("base", "head"):
        write_run(tmp_path / side / "t2i")
        (tmp_path / side / "t2i.json").touch()
    words = [f"--out={tmp_path}", "--only=compare"]
    assert same_numbers.main([*words, "--case=t2i"]) == 0
    assert same_numbers.main([*words, "--case=t2i", "--case=judge"]) == 1
    with pytest.raises(SystemExit, match="run --only base first"):
        same_numbers.main([f"--out={tmp_path}", "--only=head"])
