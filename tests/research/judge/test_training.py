"""The training of the judge: it continues to the bit, wherever it was stopped."""

from __future__ import annotations

import shutil

import pytest
import torch

from research.judge import training as module
from research.judge.checkpoint import build_judge
from research.judge.lessons import Lessons, Phase
from research.judge.make import Making, Recipe
from research.judge.training import Training, loss_of_replies
from research.states import recover_state, replace_state


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(module, "SAVE_INTERVAL", 2)
    monkeypatch.setattr("research.judge.lessons.GROUPS", {"image": 1, "video": 1})
    monkeypatch.setattr("research.judge.seeing._BATCH", 2)


def lessons():
    return Lessons(Phase("a phase", 4, described=0.5), {"image": {}, "video": {}}, seed=0)


def fresh(*, steps=4):
    torch.manual_seed(0)
    return Training(build_judge(width=64, layers=1)[0], steps, loss_of_replies)


def weights(training):
    return [parameter.clone() for parameter in training.average.parameters()]


def test_continues_as_if_it_had_never_stopped(tmp_path):
    whole = fresh()
    whole.run(lessons(), 4, workers=0, watch=lambda training: None)
    stopped = fresh()
    stopped.run(lessons(), 3, workers=0, watch=lambda training: training.save(tmp_path / "state"))
    stopped.run(lessons(), 4, workers=0, watch=lambda training: None)  # lost
    again = fresh()
    assert again.restore(tmp_path / "state")
    assert again.step == 3
    again.run(lessons(), 4, workers=0, watch=lambda training: None)
    assert all(torch.equal(one, other) for one, other in zip(weights(whole), weights(again), strict=True))


def test_a_state_of_another_length_is_refused(tmp_path):
    fresh().save(tmp_path / "state")
    with pytest.raises(ValueError, match="training of 6 steps, got one of 4"):
        fresh(steps=6).restore(tmp_path / "state")


def test_a_kill_leaves_a_whole_state(tmp_path):
    folder = tmp_path / "state"
    assert recover_state(folder) is None
    (tmp_path / "state_new").mkdir()  # killed in the first write
    assert recover_state(folder) is None
    replace_state(folder, {"step": 1})
    replace_state(folder, {"step": 2})
    assert recover_state(folder) == {"step": 2}
    shutil.copytree(folder, tmp_path / "state_old")  # killed before the earlier one was removed
    assert recover_state(folder) == {"step": 2}
    folder.rename(tmp_path / "state_new")  # killed between the two renames
    assert recover_state(folder) == {"step": 2}
    (tmp_path / "state_new").mkdir()
    (tmp_path / "state_new" / "state.json").write_text("{")  # killed in a write
    assert recover_state(folder) == {"step": 2}
    replace_state(folder, {"step": 3})
    assert recover_state(folder) == {"step": 3}
    assert not list(tmp_path.glob("state_*"))


def test_generators_are_read_when_they_are_needed(tmp_path):
    phases = [Phase("describing", 2, 1.0), Phase("rendered", 2, 0.0), Phase("generated", 2, 0.0, {"base": 1.0})]
    nowhere = {"image": tmp_path / "t2i", "video": tmp_path / "t2v"}
    making = Making(tmp_path / "out", nowhere, Recipe(1, phases, {"image": 4, "video": 4}), seed=0)
    for _ in range(2):
        with pytest.raises(ValueError, match="t2i: expected the folder of a pipeline"):
            making.make()
        assert recover_state(tmp_path / "out" / "state")["step"] == 4
        assert (tmp_path / "out" / "rendered" / "model.safetensors").exists()
    assert not (tmp_path / "out" / "judge").exists()
