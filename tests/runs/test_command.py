"""One meaning of ``--config``, ``--resume`` and overrides, whatever trains."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import flexgym.cli
import flexgym.rm.command
from flexgym.agents import pref_grpo, sb3_ppo
from flexgym.config.recipe import load_recipe
from flexgym.core.yaml_files import dump_yaml
from flexgym.runs.folder import RunFolder
from flexgym.runs.loop import TrainingRun

PROGRAMS = {
    "agent": (pref_grpo.main, ["agents.pref_grpo"], pref_grpo.DEFAULT_RECIPE),
    "sft": (flexgym.rm.command.main, ["flexgym.rm", "train", "sft"], "rm_sft_qwen3vl_8b.yaml"),
    "dpo": (flexgym.rm.command.main, ["flexgym.rm", "train", "dpo"], "rm_dpo_qwen3vl_8b.yaml"),
    "sb3": (sb3_ppo.main, ["agents.sb3_ppo"], sb3_ppo.DEFAULT_RECIPE),
    "train": (flexgym.cli.main, ["flexgym", "train", "pref_grpo"], pref_grpo.DEFAULT_RECIPE),
}
STARTED_BY = {
    "agent": "python -m agents.pref_grpo",
    "sb3": "python -m agents.sb3_ppo",
    "train": "flexgym train pref_grpo",
}
ITERATIONS = 7, 9, 11
"""Of the default recipe in these tests, of the resumed run, and of another recipe."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[TrainingRun]:
    """The runs that a command starts; they end at once."""
    runs: list[TrainingRun] = []

    def train(run: TrainingRun) -> Path:
        run.folder.close()
        runs.append(run)
        return run.folder.path

    monkeypatch.setattr(TrainingRun, "train", train)
    return runs


def recipe(kind: str, tmp_path: Path, iterations: int) -> dict[str, Any]:
    sections = dict(load_recipe(PROGRAMS[kind][2]))
    if kind in ("sft", "dpo"):
        (tmp_path / "rows.jsonl").touch()
        sections["data"] = {**(sections.get("data") or {}), "files": [str(tmp_path / "rows.jsonl")]}
        sections["resources"] = {**(sections.get("resources") or {}), "num_gpus_per_learner": 0}
        sections["judge"] = {**sections["judge"], "source": "tiny", "sharding": "none"}
    return {**sections, "run": {"root": str(tmp_path), "name": kind, "iterations": iterations}}


def saved_run(kind: str, tmp_path: Path) -> Path:
    """A run folder with a checkpoint."""
    with RunFolder.create(tmp_path, "saved") as folder:
        folder.write_config(recipe(kind, tmp_path, ITERATIONS[1]))
        folder.checkpoints.publish(0, lambda path: (path / "state").write_text("x") and None)
    return folder.path


def call(kind: str, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    main, program, _ = PROGRAMS[kind]
    monkeypatch.setattr(sys, "argv", [*program, *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize("kind", PROGRAMS)
def test_config_and_resume_mean_the_same_everywhere(kind, tmp_path, monkeypatch, started):
    other = tmp_path / "other.yaml"
    other.write_text(dump_yaml(recipe(kind, tmp_path, ITERATIONS[2])))
    run = saved_run(kind, tmp_path)
    commands = {
        (f"--config={other}",): (ITERATIONS[2], None),
        (f"--resume={run}",): (ITERATIONS[1], run),
        (f"--resume={run}", f"--config={other}"): (ITERATIONS[2], run),
        (f"--resume={run}", "run.iterations=13"): (13, run),
        (f"--resume={run}", f"--config={other}", "run.iterations=13"): (13, run),
    }
    for arguments, (iterations, resumed) in commands.items():
        assert call(kind, monkeypatch, *arguments) == 0
        begun = started.pop()
        assert begun.settings.iterations == iterations, arguments
        assert begun.folder.resumed_from == (resumed and resumed / "checkpoints" / "iteration_000000")
        assert " ".join(begun.command) == STARTED_BY.get(kind, f"flexgym.rm train {kind}")


@pytest.mark.parametrize("at_url", [False, True])
def test_one_command_starts_and_resumes(at_url, tmp_path, monkeypatch, started, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root = tmp_path / "runs"
    words = ["--resume=auto", f"run.root={'file://' if at_url else ''}{root}", "run.name=mine"]
    assert call("agent", monkeypatch, *words) == 0
    assert call("agent", monkeypatch, *words) == 0  # killed before the first checkpoint: starts beside the remains
    assert [run.folder.resumed_from for run in started] == [None, None]
    assert "starting a new one" in capsys.readouterr().out
    with RunFolder.create(root.as_uri() if at_url else root, "mine") as folder:
        folder.write_config({**recipe("agent", root, ITERATIONS[1]), "run": {"root": str(root), "iterations": 9}})
        folder.checkpoints.publish(4, lambda path: (path / "state").write_text("x") and None)
    monkeypatch.setattr("flexgym.runs.folder._check_trainer", lambda checkpoint, required: None)
    assert call("agent", monkeypatch, *words) == 0
    assert started[-1].folder.start_iteration == 4
    assert started[-1].settings.iterations == 9  # of the resumed run, not of the default recipe
    assert started[-1].folder.shown.endswith("mine-3")
    assert "mine-3." in capsys.readouterr().out


@pytest.mark.parametrize("kind", PROGRAMS)
def test_what_is_wrong_is_told_before_a_folder_is_made(kind, tmp_path, monkeypatch, started, capsys):
    other = tmp_path / "other.yaml"
    other.write_text(dump_yaml(recipe(kind, tmp_path, 3)))
    for arguments, message in (
        ([f"--config={tmp_path / 'lost.yaml'}"], "no such file"),
        ([f"--resume={tmp_path / 'lost'}"], "no such run folder"),
        ([f"--config={other}", "run.iteratons=3"], "Did you mean 'iterations'?"),
        ([f"--config={other}", "iterations=3"], "expected section.key=value"),
    ):
        assert call(kind, monkeypatch, *arguments) == 2
        assert message in " ".join(capsys.readouterr().err.split())
    assert not started
    assert not (tmp_path / kind).exists()


@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_judge_training_lists_the_same_options(stage):
    shown = CliRunner().invoke(flexgym.rm.command.app, ["train", stage, "--help"]).output
    assert all(option in shown for option in ("--config", "--resume", "--dry-run"))
