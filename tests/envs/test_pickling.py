"""Environments, policies and rewards in pickle and copy, before and after they were used."""

from __future__ import annotations

import copy
import pickle

import cloudpickle
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence

from flexgym import FlowPolicy, rewards
from flexgym.generators.loader import load_generator
from flexgym.reward.guard import FailedSamples
from tests.generators.tiny import FAMILIES, prompts_for, shared

NAMES = ("FlexT2I-v0", "FlexT2V-v0", "FlexT2IControl-v0", "FlexT2VControl-v0")
WAYS = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "cloudpickle": lambda value: cloudpickle.loads(cloudpickle.dumps(value)),
    "deepcopy": copy.deepcopy,
}
BY = pytest.mark.parametrize(
    "way",
    [pytest.param(way, id=name, marks=() if name == "cloudpickle" else pytest.mark.slow) for name, way in WAYS.items()],
)
"""Ray and vector environments take the way of every run; the others are slow tests."""


def acting(env):
    if "Control" in env.unwrapped.name:
        return lambda observation: env.unwrapped.default_action
    return FlowPolicy.from_env(env, seed=1)


def episode(env, seed, policy=None):
    policy = policy or acting(env)
    observation, _ = env.reset(seed=seed)
    steps, ended = [], False
    while not ended:
        steps.append(env.step(policy(observation)))
        observation, _, ended, *_ = steps[-1]
    return steps


def same(ours, theirs):
    assert data_equivalence(ours, theirs, exact=True)


@BY
@pytest.mark.parametrize("name", NAMES)
def test_a_used_environment_goes_on_elsewhere(make, name, way):
    env = make(name, num_steps=2)
    fresh = way(env)
    first = episode(env, 0)
    used = way(env)
    same(episode(fresh, 0), first)
    same(episode(used, 0), first)
    same(episode(env, 0), first)


@BY
def test_an_episode_goes_on_elsewhere(make_vec, way):
    envs = make_vec(num_envs=2)
    policy = FlowPolicy.from_env(envs, seed=3)
    observations, _ = envs.reset(seed=1)
    observations, *_ = envs.step(policy(observations))
    found = []
    for envs_, policy_, seen in (way((envs, policy, observations)), (envs, policy, observations)):
        steps = []
        for _ in range(4):
            steps.append(envs_.step(policy_(seen)))
            seen = steps[-1][0]
        found.append(steps)
    same(*found)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_of_generator_pickles_after_use(family):
    generator = shared(family)
    name = {"image": "FlexT2I-v0", "video": "FlexT2V-v0"}[generator.modality]
    env = gym.make(name, generator=generator, group_size=2, num_steps=2, prompts=prompts_for(family))
    first = episode(env, 0)
    same(episode(pickle.loads(pickle.dumps(env)), 0), first)


@pytest.mark.slow
@pytest.mark.parametrize("trained", ["add_lora", "train_full", "checkpoint_gradients"])
def test_a_trained_generator_pickles(trained):
    generator = load_generator("shapes-t2i", num_steps=2)
    if trained == "checkpoint_gradients":
        generator.weights.add_lora()
    getattr(generator.weights, trained)()
    env = gym.make("FlexT2I-v0", generator=generator, group_size=2)
    first = episode(env, 0)
    again = pickle.loads(pickle.dumps(env))
    same(episode(again, 0), first)
    ours, theirs = (each.weights for each in (again.unwrapped.generator, generator))
    assert ours.mode == theirs.mode
    assert list(ours.trained()) == list(theirs.trained())


@BY
@pytest.mark.parametrize(
    ("reward", "settings"),
    [
        ("ShapesVerifier", {"deadline_s": 60.0}),
        pytest.param("UnifiedRewardFlex", {"judge": "shapes-judge"}, marks=pytest.mark.slow),
        ("Rubric", {"terms": [{"reward": "ShapesVerifier"}, {"reward": "JPEGCompressibility"}]}),
        ("Remote", {"url": "http://127.0.0.1:9"}),
    ],
)
def test_a_reward_pickles_with_its_environment(reward, settings, way):
    env = getattr(rewards, reward)(gym.make("FlexT2I-v0", group_size=2, num_steps=2), **settings)
    policy = acting(env)
    if reward == "Remote":
        again = way(env)
        assert again.scorer._urls == env.scorer._urls
        return
    first = episode(env, 0, policy)[-1]
    env.scorer.submit([]).result()
    again = way(env)
    assert again.scorer.deadline_s == env.scorer.deadline_s
    observation, reward_, _, _, info = episode(again, 0)[-1]
    assert reward_ == first[1]
    np.testing.assert_array_equal(info["group_rewards"], first[4]["group_rewards"])
    for each in (again, env):
        each.close()


def test_failed_samples_pickle(tmp_path):
    failed = pickle.loads(pickle.dumps(FailedSamples(tmp_path, limit=2)))
    assert failed.latest() == []
    assert failed.folder == tmp_path
