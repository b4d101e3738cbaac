from __future__ import annotations

import pickle

import pytest

from flexgym import rewards
from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.reward import Reward
from tests.reward.test_base import Brightness, group


def test_names_lists_rewards_and_not_the_machinery():
    assert {"ShapesOracle", "ShapesVerifier"} <= set(rewards.names())
    assert not {"base", "registry", "vector", "vision", "wrappers"} & {name.lower() for name in rewards.names()}


@pytest.mark.parametrize("name", ["shapes_verifier", "ShapesVerifier"])
def test_make_builds_the_bare_scorer(name):
    reward = rewards.make(name)
    assert isinstance(reward, Reward)
    assert reward.name == "shapes_verifier"


def test_unknown_name_names_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'ShapesOracle'"):
        rewards.make("shape_oracle")
    with pytest.raises(AttributeError, match="Did you mean 'ShapesOracle'"):
        _ = rewards.ShapeOracel
    with pytest.raises(AttributeError, match="no_such"):
        _ = rewards.no_such


def test_attribute_access_gives_the_same_class_each_time_and_pickles():
    assert rewards.ShapesVerifier is rewards.ShapesVerifier
    assert rewards.ShapesVerifier is not rewards.vector.ShapesVerifier
    for cls in (rewards.ShapesVerifier, rewards.vector.ShapesVerifier):
        assert pickle.loads(pickle.dumps(cls)) is cls


def test_register_makes_a_reward_of_ones_own(monkeypatch):
    monkeypatch.setattr("flexgym.reward.names._CLASSES", {})

    @rewards.register("mean_value")
    class MeanValue(Brightness):
        pass

    assert isinstance(rewards.make("mean_value"), MeanValue)
    assert issubclass(rewards.MeanValue, rewards.RewardWrapper)
    assert "MeanValue" in rewards.names()
    with pytest.raises(ConfigError, match="is taken by"):
        rewards.register("meanvalue")(type("MeanValue", (Brightness,), {"__qualname__": "Other"}))
    with pytest.raises(ConfigError, match="same name in capitals"):
        rewards.register("median_value")(MeanValue)


def write_module(folder, monkeypatch, name, text):
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(folder))


OWN = """
import numpy as np
from flexgym.rewards import PointwiseReward

class MyReward(PointwiseReward):
    def __init__(self, factor=1.0):
        self.factor = factor

    def score_samples(self, prompt, samples):
        return self.factor * samples.mean(axis=(1, 2, 3))

other = 3
"""


def test_a_reward_of_ones_own_is_found_by_its_path(tmp_path, monkeypatch):
    write_module(tmp_path, monkeypatch, "own_reward_module", OWN)
    for path in ("own_reward_module:MyReward", "own_reward_module.MyReward"):
        reward = rewards.make(path, factor=2.0, deadline_s=5)
        assert reward.guarded([group(10, 20)])[0].rewards.tolist() == [20, 40]
        assert reward.name == "my_reward"
        assert reward.deadline_s == 5


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("own_reward_errors:MyRewrad", UnknownNameError, "Did you mean 'MyReward'"),
        ("own_reward_errors:other", ConfigError, "derived from rewards.Reward, got 3"),
        ("no_such_module:MyReward", ConfigError, "'no_such_module' cannot be imported.*mymodule:MyReward"),
        (":MyReward", ConfigError, "cannot be imported"),
        ("own_reward_errors:", UnknownNameError, "Known: MyReward[.]"),
    ],
)
def test_a_path_that_leads_nowhere_says_so(tmp_path, monkeypatch, path, error, message):
    write_module(tmp_path, monkeypatch, "own_reward_errors", OWN)
    with pytest.raises(error, match=message):
        rewards.make(path)
