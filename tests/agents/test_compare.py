from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from flexgym.agents.compare import DEFAULT_RECIPE, Candidate, add_runs, compare
from flexgym.commands.train import train_words
from flexgym.config.recipe import apply_overrides, load_recipe
from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.runs.series import Series

SMALL = (
    "run.iterations=2",
    "run.minutes=null",
    "run.checkpoint_interval=1",
    "generator.sampling={num_steps: 3}",
    "rollout.group_size=2",
    "rollout.prompts_per_iteration=2",
    "rollout.groups_per_forward=2",
    "algorithm.window={size: 1, strategy: random, first: [0, 1]}",
    "verification.num_prompts=4",
    "verification.interval=1",
)
BROKEN = """
from flexgym.rewards import PointwiseReward

class Broken(PointwiseReward):
    def __init__(self):
        raise ValueError("no such scorer")

    def score_samples(self, prompt, samples):
        return samples.mean(axis=(1, 2, 3))
"""


def base(*overrides):
    return apply_overrides(load_recipe(DEFAULT_RECIPE), [*SMALL, *overrides])


@pytest.fixture
def series(tmp_path):
    return Series(tmp_path / "compare", train_words("pref_grpo"))


def test_a_reward_is_a_name_and_settings_in_words():
    candidate = Candidate.parse("UnifiedRewardFlex tournament.schedule=regular(4) label=flex.4")
    assert (candidate.name, candidate.label) == ("UnifiedRewardFlex", "flex.4")
    assert candidate.settings == {"tournament": {"schedule": "regular(4)"}}
    assert Candidate.parse("jpeg_compressibility").label == "JPEGCompressibility"
    with pytest.raises(UnknownNameError, match="Did you mean 'ShapesOracle'"):
        Candidate.parse("shape_oracle")
    with pytest.raises(ConfigError, match="expected letters"):
        Candidate.parse("CLIPScore label=a/b")


def test_recipes_differ_in_reward_and_seed_alone():
    recipe = base("reward.settings.alpha=0.6", "verification.interval=3")
    oracle, size = (Candidate.parse(words).recipe(recipe, 5) for words in ("ShapesOracle", "JPEGCompressibility"))
    assert oracle["reward"]["settings"] == {"alpha": 0.6}, "settings of the recipe's own reward stay"
    assert size["reward"]["settings"] == {}
    assert oracle["rollout"].pop("reference_interval") == 3, "the curve of a judge"
    assert oracle["rollout"] == size["rollout"]
    assert oracle["run"]["seed"] == size["run"]["seed"] == 5
    assert oracle["verification"] == size["verification"]
    assert "seed" not in recipe["run"]


def test_runs_that_could_not_be_compared_are_refused(series):
    size = Candidate.parse("JPEGCompressibility")
    assert add_runs(series, base(), [size], seeds=[0, 1]) == ["JPEGCompressibility-seed0", "JPEGCompressibility-seed1"]
    with pytest.raises(ConfigError, match=r"it holds runs with rollout\.group_size=2, got 4"):
        add_runs(series, base("rollout.group_size=4"), [Candidate.parse("ShapesOracle")], seeds=[0])
    with pytest.raises(ConfigError, match="label of its own"):
        add_runs(series, base(), [size, Candidate("JPEGCompressibility", {"quality": 50})], seeds=[0])


@pytest.mark.slow
def test_two_rewards_and_a_broken_one_make_a_table_and_a_figure(series, tmp_path, monkeypatch):
    (tmp_path / "broken_reward_of_compare.py").write_text(BROKEN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ("broken_reward_of_compare:Broken", "JPEGCompressibility", "ShapesOracle")
    candidates = [Candidate.parse(one) for one in words]
    lines = []
    assert not compare(series, base(), candidates, seeds=[0], report=lines.append)
    figures = {found["reward"]: found for found in json.loads((series.root / "comparison.json").read_text())}
    assert {label: found["status"] for label, found in figures.items()} == {
        "Broken": "failed",
        "JPEGCompressibility": "finished",
        "ShapesOracle": "finished",
    }
    assert "no such scorer" in figures["Broken"]["problem"]
    for found in (figures["JPEGCompressibility"], figures["ShapesOracle"]):
        assert found["iterations"] == 2
        assert 0 < found["diversity"]["after"] < 1
        assert 0 <= found["verifier"]["after"] <= 1
        assert 0 < found["reward_s"] < found["iteration_s"]
    assert figures["JPEGCompressibility"]["own"]["before"] < 0
    assert figures["ShapesOracle"]["own_metric"] == "reward/win_rate_vs_reference"
    assert "| ShapesOracle | 0 | 2 |" in (series.root / "comparison.md").read_text()
    assert len(np.unique(np.asarray(Image.open(series.root / "comparison.png")))) > 50

    metrics = series.root / "ShapesOracle-seed0" / "metrics.jsonl"
    before, again = metrics.read_bytes(), []
    assert compare(series, base(), candidates[1:], seeds=[0], report=again.append)
    assert not any("log in" in line for line in again), "nothing is repeated"
    assert metrics.read_bytes() == before
