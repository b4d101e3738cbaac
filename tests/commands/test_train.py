"""``flexgym train``, and the names under which agents, rewards and environments are found in a checkout."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import flexgym.envs.vector
import flexgym.rewards
from flexgym.agents.compare import _agent_words
from flexgym.cli import app
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


def test_short_names_in_a_checkout_lead_to_the_same_objects():
    short, vector = importlib.import_module("rewards"), importlib.import_module("rewards.vector")
    assert short.ShapesOracle is flexgym.rewards.ShapesOracle
    assert short.make is flexgym.rewards.make
    assert vector is flexgym.rewards.vector
    assert importlib.import_module("envs").vector is flexgym.envs.vector
