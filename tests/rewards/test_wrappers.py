"""The wrapper classes of rewards: names, signatures, pickling and specifications."""

from __future__ import annotations

import inspect
import pickle
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import SyncVectorEnv

from flexgym import rewards
from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.reward import PointwiseReward
from tests.reward.test_wrappers import GroupEnv, run

OWN = """
from dataclasses import dataclass
import numpy as np
from flexgym.rewards import PointwiseReward

class Sharpness(PointwiseReward):
    '''Scores contrast.'''

    def __init__(self, sharpness: float = 1.0, *, clip: tuple[int, int] | None = None):
        self.sharpness, self.clip = sharpness, clip

    def score_samples(self, prompt, samples):
        return self.sharpness * samples.mean(axis=(1, 2, 3))

class Outer:
    class Nested(Sharpness):
        pass
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The module `own_sharpness` with a reward of a user."""
    (tmp_path / "own_sharpness.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    import own_sharpness

    yield own_sharpness
    del sys.modules["own_sharpness"]


@pytest.fixture
def env():
    gym.register("GroupEnvForTests-v0", GroupEnv, disable_env_checker=True)
    yield gym.make("GroupEnvForTests-v0")
    del gym.registry["GroupEnvForTests-v0"]


@pytest.fixture
def plain_env():
    """An environment whose specification holds no callable, so that it can be JSON."""
    gym.register("GroupEnvForTests-v0", f"{GroupEnv.__module__}:GroupEnv", disable_env_checker=True)
    yield gym.make("GroupEnvForTests-v0")
    del gym.registry["GroupEnvForTests-v0"]


def through_json(env):
    return gym.make(EnvSpec.from_json(env.spec.to_json()))


def test_spec_rebuilds_the_wrapped_environment(env):
    env = rewards.ShapesOracle(env, alpha=0.5)
    rebuilt = gym.make(env.spec)
    assert isinstance(rebuilt, rewards.ShapesOracle)
    assert rebuilt.scorer.tournament.alpha == 0.5


def test_a_spec_survives_json(plain_env):
    env = rewards.ShapesOracle(rewards.JPEGCompressibility(plain_env, quality=50, deadline_s=9), alpha=0.5)
    rebuilt = through_json(env)
    assert isinstance(rebuilt, rewards.ShapesOracle)
    assert isinstance(rebuilt.env, rewards.JPEGCompressibility)
    assert (rebuilt.scorer.tournament.alpha, rebuilt.env.scorer.quality, rebuilt.env.scorer.deadline_s) == (0.5, 50, 9)
    assert rebuilt.spec == env.spec


def test_a_reward_of_ones_own_by_path_class_and_instance(own, plain_env):
    by_path = rewards.wrap(plain_env, "own_sharpness:Sharpness", sharpness=2)
    by_class = rewards.wrap(plain_env, own.Sharpness, sharpness=2, deadline_s=5)
    built = own.Sharpness(2, clip=(0, 9))
    built.deadline_s = 3.0
    by_instance = rewards.wrap(plain_env, built)
    assert by_instance.scorer is built
    for env in (by_path, by_class, by_instance):
        assert (type(env).__name__, type(env).__module__) == ("Sharpness", "own_sharpness")
        assert type(env) is type(by_path)
        assert type(env).__doc__ == "Scores contrast."
        assert str(env).startswith("<Sharpness<")
        assert run(env, 2)[1][4]["group_rewards"].shape == (3,)
        assert pickle.loads(pickle.dumps(type(env))) is type(env)
        rebuilt = through_json(env)
        assert type(rebuilt) is type(env)
        assert rebuilt.scorer.sharpness == 2
        assert rebuilt.scorer.deadline_s == env.scorer.deadline_s
    assert rebuilt.scorer.clip == (0, 9)  # a list in JSON, a tuple by its annotation


def test_a_wrapped_environment_can_be_pickled(own, plain_env):
    for env in (rewards.wrap(plain_env, own.Sharpness(2)), rewards.JPEGCompressibility(plain_env, quality=50)):
        again = pickle.loads(pickle.dumps(env))
        assert type(again) is type(env)
        assert run(again, 2)[1][1] == run(env, 2)[1][1]


def test_a_nested_class_is_rebuilt_too(own, plain_env):
    env = rewards.wrap(plain_env, own.Outer.Nested(3.0))
    rebuilt = through_json(env)
    assert type(rebuilt.scorer) is own.Outer.Nested
    assert rebuilt.scorer.sharpness == 3.0
    assert pickle.loads(pickle.dumps(type(env))) is type(env)


def test_vector_environments_take_rewards_of_ones_own(own):
    for reward, settings in (("own_sharpness:Sharpness", {"sharpness": 2}), (own.Sharpness(2), {})):
        envs = rewards.vector.wrap(SyncVectorEnv([GroupEnv] * 2), reward, **settings)
        assert isinstance(envs, rewards.VectorRewardWrapper)
        assert (type(envs).__name__, type(envs).__module__) == ("Sharpness", "own_sharpness")
        assert pickle.loads(pickle.dumps(type(envs))) is type(envs)
        assert run(envs, 2)[1][4]["group_rewards"].shape == (2, 3)


def test_a_reward_that_no_import_finds_still_has_a_spec(env):
    class Local(PointwiseReward):
        def __init__(self, factor):
            self.factor = factor

        def score_samples(self, prompt, samples):
            return np.zeros(len(samples))

    wrapped = rewards.wrap(env, Local(factor=4))
    rebuilt = gym.make(wrapped.spec)
    assert isinstance(rebuilt.scorer, Local)
    assert rebuilt.scorer is not wrapped.scorer
    assert rebuilt.scorer.factor == 4


def test_a_reward_whose_arguments_have_no_names_is_kept_itself(env):
    class Weighted(PointwiseReward):
        def __init__(self, *weights):
            self.weights = weights

        def score_samples(self, prompt, samples):
            return np.zeros(len(samples))

    wrapped = rewards.wrap(env, Weighted(1, 2))
    assert gym.make(wrapped.spec).scorer is wrapped.scorer


def test_mistakes_in_wrap_are_explained(own, env):
    with pytest.raises(ConfigError, match="already built; pass its class or its name"):
        rewards.wrap(env, own.Sharpness(), sharpness=2)
    with pytest.raises(UnknownNameError, match="Did you mean 'sharpness'"):
        rewards.wrap(env, own.Sharpness, sharpnes=2)
    with pytest.raises(ConfigError, match="sharpness of sharpness: expected number, got 'two'"):
        rewards.wrap(env, "own_sharpness:Sharpness", sharpness="two")
    with pytest.raises(ConfigError, match="expected a name, path or class.*got 3"):
        rewards.wrap(env, 3)

    class Greedy(own.Sharpness):
        def __init__(self, env):
            pass

    with pytest.raises(ConfigError, match="cannot be called 'env'; rename it"):
        rewards.wrap(env, Greedy)


@pytest.mark.parametrize("namespace", [rewards, rewards.vector])
def test_signatures_name_the_settings_of_the_reward(namespace):
    signature = inspect.signature(namespace.UnifiedRewardFlex)
    assert list(signature.parameters) == [
        "env",
        "judge",
        "tournament",
        "backend",
        "backend_settings",
        "prompt_template",
        "decoding",
        "inputs",
        "deadline_s",
        "own_process",
        "failed_samples",
    ]
    assert signature.parameters["judge"].default is None
    jpeg = inspect.signature(namespace.JPEGCompressibility.__init__)
    assert list(jpeg.parameters) == [
        "self",
        "env",
        "quality",
        "incompressible",
        "deadline_s",
        "own_process",
        "failed_samples",
    ]
    assert (jpeg.parameters["quality"].default, jpeg.parameters["quality"].annotation) == (95, int)


def test_only_public_names_are_listed():
    wrappers = {"CLIPScore", "ShapesOracle", "UnifiedRewardFlex", "VQAScore"}
    tools = {"wrap", "VectorRewardWrapper"}
    assert wrappers | tools <= set(dir(rewards.vector))
    assert all(name in tools or name in rewards.names() for name in dir(rewards.vector))
    tools |= {"JudgeReward", "PointwiseReward", "Reward", "RewardWrapper"}
    tools |= {"check", "make", "names", "register", "vector"}
    assert set(dir(rewards)) == tools | set(rewards.names())
