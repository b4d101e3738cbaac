"""``flexgym train``, and the names under which agents, rewards and environments are found in a checkout."""

from __future__ import annotations

import importlib
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import flexgym.envs.vector
import flexgym.rewards
from flexgym.agents.compare import _agent_words
from flexgym.cli import LATER, app, load_command
from flexgym.commands.train import command_names, train_words
from flexgym.core.errors import UnknownNameError

ROOT = Path(__file__).resolve().parents[2]


def test_every_agent_has_a_launcher_and_every_launcher_an_agent():
    launchers = {path.stem for path in (ROOT / "agents").glob("*.py")} - {"__init__"}
    assert launchers == set(command_names())
    assert {"grpo", "pref_grpo", "compare", "sb3_ppo"} <= launchers


def test_a_wrong_name_is_answered_with_the_nearest_one():
    done = CliRunner().invoke(app, ["train", "pref_gpro", "run.iterations=1"])
    assert done.exit_code == 2
    assert "unknown agent 'pref_gpro'. Did you mean 'pref_grpo'?" in " ".join(done.stderr.split())
    listed = CliRunner().invoke(app, ["train", "--help"]).output
    assert all(name in listed for name in command_names())


def test_words_that_start_an_agent(tmp_path, monkeypatch):
    assert train_words("grpo") == [sys.executable, "-m", "flexgym.cli", "train", "grpo"]
    assert _agent_words("agents.grpo") == _agent_words("flexgym.agents.grpo") == train_words("grpo")
    (tmp_path / "own_agent_of_compare.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert _agent_words("own_agent_of_compare") == [sys.executable, "-m", "own_agent_of_compare"]
    for name in ("grop", "agents.grop", "nowhere.at_all"):
        with pytest.raises(UnknownNameError, match="unknown agent"):
            _agent_words(name)


def test_modules_in_the_working_folder_are_found(tmp_path, monkeypatch):
    reward = "from flexgym import rewards\n\n\nclass Own(rewards.PointwiseReward):\n    score_samples = None\n"
    (tmp_path / "own_reward_of_train.py").write_text(reward)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])  # those of a command that pip installed
    words = ["train", "grpo", "reward.name=own_reward_of_train:Own", "reward.settings={}", "--print-config"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert "own_reward_of_train:Own" in shown.output


@pytest.mark.parametrize("name", LATER)
def test_commands_that_are_loaded_late_are_listed_with_their_help(name):
    assert (load_command(name).help or "").startswith(LATER[name][1])
    assert LATER[name][1] in " ".join(CliRunner().invoke(app, ["--help"], env={"COLUMNS": "160"}).output.split())


HEAVY = ("torch", "ray", "transformers", "diffusers", "stable_baselines3")


@pytest.mark.parametrize(
    ("words", "most"),
    [
        *((("-m", f"agents.{name}", "--help"), 1.0) for name in ("grpo", "pref_grpo", "sb3_ppo", "compare")),
        (("-m", "flexgym.cli", "train", "opd", "--help"), 1.0),
        (("-m", "flexgym.cli", "--help"), 0.5),
    ],
    ids=lambda value: " ".join(value[1:]) if isinstance(value, tuple) else None,
)
def test_help_is_quick_and_loads_nothing_heavy(words, most):
    """The processor's time, at best of a few, with half as much again where other work shares the core."""
    seconds = []
    while len(seconds) < 4 and min(seconds, default=9.0) >= most:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-X", "importtime", *words], capture_output=True, text=True, cwd=ROOT)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) > 10
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not loaded & set(HEAVY)
    assert min(seconds) < 1.5 * most


@pytest.mark.slow  # trains
def test_a_healthy_run_prints_no_warnings_of_other_libraries(tmp_path):
    words = [*train_words("pref_grpo"), "run.iterations=1", "verification.num_prompts=8", f"run.root={tmp_path}"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    notes = [line for line in done.stderr.splitlines() if not line.startswith("without effect: ")]  # one of ours
    assert notes == []
    assert "torchvision" not in done.stdout
    assert "API stack" not in done.stdout


def test_short_names_in_a_checkout_lead_to_the_same_objects():
    short, vector = importlib.import_module("rewards"), importlib.import_module("rewards.vector")
    assert short.ShapesOracle is flexgym.rewards.ShapesOracle
    assert short.make is flexgym.rewards.make
    assert vector is flexgym.rewards.vector
    assert importlib.import_module("envs").vector is flexgym.envs.vector
