from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from pydantic import ValidationError

from flexgym.algorithm.advantages import advantages_of
from flexgym.algorithm.settings import AlgorithmSettings, WindowSettings
from flexgym.config import AgentSettings, RewardSettings, RolloutSettings, RunSettings, TrainingSettings
from flexgym.config.training import ADVANTAGES
from flexgym.flow import WindowSchedule
from flexgym.flow.advantage import blended_advantages
from flexgym.types import GroupScores

SETTINGS = AgentSettings(algorithm=AlgorithmSettings(name="grpo"), reward=RewardSettings(name="ShapesOracle"))


def test_settings_are_frozen_and_pickle():
    with pytest.raises(ValidationError, match="frozen"):
        SETTINGS.run.seed = 3
    assert pickle.loads(pickle.dumps(SETTINGS)) == SETTINGS


def test_importing_settings_loads_nothing_heavy():
    heavy = "torch", "ray", "transformers", "diffusers", "stable_baselines3", "trl"
    code = f"import flexgym.config, sys; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_group_seeds_follow_from_seed_and_iteration():
    settings = SETTINGS.model_copy(update={"run": RunSettings(seed=3), "rollout": RolloutSettings(group_size=2)})
    expected = np.random.SeedSequence([3, 5]).generate_state(16).tolist()
    assert settings.group_seeds(5) == expected


@pytest.mark.parametrize(
    ("name", "options"), [("paper", {}), ("authors_code", {"ddof": 1, "eps": 1e-8, "batch_norm": True})]
)
def test_a_named_advantage_has_the_options_of_that_name(name, options):
    rewards = np.random.default_rng(0).normal(size=(3, 4))
    given = TrainingSettings.model_validate({"advantage": name}).advantage
    assert given == ADVANTAGES[name]
    expected = blended_advantages({"r": rewards}, {"r": 1.0}, **options)
    scores = [GroupScores(rewards=row) for row in rewards]
    np.testing.assert_array_equal(advantages_of(scores, **dict(given)), expected)
    best = TrainingSettings.model_validate({"advantage": {"best": 1, "worst": 2}}).advantage
    assert ((advantages_of(scores, **dict(best)) == 0.0).sum(1) == 1).all()


def test_a_window_makes_its_schedule():
    window = WindowSettings(size=2, strategy="progressive", first=(0, 3), every=5)
    assert window.schedule(10) == WindowSchedule(10, size=2, strategy="progressive", first=(0, 3), every=5)
    assert WindowSettings(strategy="all").schedule(10) == WindowSchedule(10, strategy="all")
