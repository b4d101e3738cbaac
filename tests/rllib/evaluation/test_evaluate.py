"""Evaluation of runs: figures equal to those of the runs themselves, and what cannot be evaluated."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from flexgym.agents.base import AgentComponents
from flexgym.cli import app
from flexgym.config import AgentSettings
from flexgym.config.load import load_settings
from flexgym.rllib.command import make_agent_run
from flexgym.rllib.evaluation.result import read_rows
from flexgym.runs.metrics import read_metrics
from tests.agents.small import SMALL, merged
from tests.runs.test_loop import Counter, run

pytestmark = pytest.mark.usefixtures("cluster")


def evaluate(*words):
    return CliRunner().invoke(app, ["evaluate", *map(str, words)])


@pytest.mark.parametrize(
    ("env", "changes"),
    [
        ("FlexT2I-v0", {"generator": {"mode": "lora", "lora": {"rank": 4}}}),
        pytest.param("FlexT2V-v0", {"training": {"ema_decay": 0.9}}, marks=pytest.mark.slow),
        pytest.param("FlexT2I-v0", {"verification": {"trained_share": 0.5}}, marks=pytest.mark.slow),
    ],
)
def test_on_its_own_prompts_the_figures_of_a_run_return_to_the_bit(tmp_path, env, changes):
    recipe = {
        "run": {"root": str(tmp_path), "name": "run", "iterations": 1, "trackers": []},
        "environment": {"env": env},
        "verification": {"reward": "ShapesVerifier", "num_prompts": 9, "interval": 0, "groups": 2},
    }
    settings = load_settings(AgentSettings, merged(merged(SMALL, recipe), changes))
    folder = make_agent_run(settings, AgentComponents(), resume=None, command=()).train()
    result = evaluate(folder, "--json")
    assert result.exit_code == 0, result.output
    row = json.loads(result.output)
    assert read_rows(folder) == [row]
    measured = [found for found in read_metrics(folder / "metrics.jsonl") if "eval/accuracy" in found]
    for found, when in zip(measured, ("before", "after"), strict=True):
        expected = {name: found[f"eval/{name}"] for name in ("accuracy", "audit", "diversity")}
        expected |= {name: found[f"eval/accuracy_{name}"] for name in ("low", "high")}
        assert {name: row[when][name] for name in expected} == expected
    assert (row["split"], row["iteration"], row["num_prompts"]) == ("validation", 1, 9)
    assert row["before"]["diversity"] != row["after"]["diversity"], "the weights of the checkpoint were taken"
    assert row["after"]["kl"] > 0, "the policy has moved"


def test_another_kind_of_run_cannot_be_evaluated(tmp_path):
    folder = run(tmp_path, Counter())
    result = evaluate(folder)
    assert result.exit_code == 2
    assert "an agent that trains a generator" in result.output
    assert not (folder / "evaluations.jsonl").exists()


def test_a_url_and_a_missing_run_are_told_apart(tmp_path):
    assert "expected a run folder on this machine" in evaluate("s3://bucket/run").output
    assert evaluate(tmp_path / "none").exit_code == 2
