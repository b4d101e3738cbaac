"""Gymnasium's own wrappers around FlexGym's environments."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import flatten, unflatten
from gymnasium.wrappers import FlattenObservation, TimeAwareObservation

from envs.spaces import PromptSpace
from flexgym import FlowPolicy
from flexgym.generators.loader import load_generator

NAMES = ("FlexT2I-v0", "FlexT2V-v0", "FlexT2IControl-v0", "FlexT2VControl-v0")


@pytest.mark.parametrize("text", ["a red cube", "日本語 on a sign", "\U0010ffff\0", "x" * 20])
def test_a_prompt_survives_flattening(text):
    space = PromptSpace(20)
    flat = flatten(space, text)
    assert flat.dtype == np.int32
    assert flat in gym.spaces.flatten_space(space)
    assert unflatten(space, flat) == text
    assert gym.spaces.flatdim(space) == 20


@pytest.mark.parametrize("name", NAMES)
def test_observations_can_be_flattened(make, name):
    env = FlattenObservation(make(name))
    observation, _ = env.reset(seed=0)
    assert observation in env.observation_space
    inner = env.env.observation_space
    again = unflatten(inner, observation)
    first, _ = make(name).reset(seed=0)
    assert again["prompt"] == first["prompt"] if isinstance(first["prompt"], str) else True
    np.testing.assert_array_equal(again["sigma"], first["sigma"])


def test_observations_of_a_vector_can_be_flattened(make_vec):
    envs = gym.wrappers.vector.FlattenObservation(make_vec())
    observations, _ = envs.reset(seed=0)
    assert observations in envs.observation_space


@pytest.mark.parametrize("name", NAMES)
def test_the_length_of_an_episode_is_known(make, name):
    env = TimeAwareObservation(make(name), flatten=False)
    observation, _ = env.reset(seed=0)
    steps, ended = 0, False
    while not ended:
        assert observation["time"].item() == steps
        observation, _, ended, truncated, _ = env.step(env.unwrapped.action_space.sample())
        steps += 1
    assert not truncated
    assert env.max_timesteps == steps + 1
    if "Control" not in name:
        assert steps == len(env.unwrapped.sigmas) - 1


def test_an_environment_from_its_specification_gives_the_same_episode():
    env = gym.make("FlexT2I-v0", group_size=2, num_steps=3, prompts=["a red circle"])
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    policies = [FlowPolicy.from_env(each, seed=1) for each in (env, again)]
    for each, policy in zip((env, again), policies, strict=True):
        observation, _ = each.reset(seed=3)
        for step in range(3):
            observation, reward, terminated, truncated, info = each.step(policy(observation))
            assert (terminated, truncated, reward) == (step == 2, False, 0.0)
        each.last = info["samples"]
    np.testing.assert_array_equal(env.last, again.last)
    assert again.spec == env.spec
    assert gym.make("FlexT2I-v0", generator=load_generator(modality="image")).spec is not None
