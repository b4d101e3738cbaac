"""Gymnasium's own wrappers around FlexGym's environments."""

from __future__ import annotations

import pickle
from importlib.util import find_spec

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import wrappers
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import DependencyNotInstalled
from gymnasium.spaces import flatten, unflatten
from gymnasium.wrappers import FlattenObservation, TimeAwareObservation
from gymnasium.wrappers import vector as vector_wrappers

from flexgym import FlowPolicy, rewards
from flexgym.envs.spaces import PromptSpace
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


# --- every wrapper of Gymnasium --------------------------------------------------------------------------------------


def same(value):
    return value


NEEDS_MODULE = {"RecordVideo": "moviepy", "HumanRendering": "pygame", "JaxToNumpy": "jax", "JaxToTorch": "jax"}
SINGLE = {
    "AddRenderObservation": {},
    "AddWhiteNoise": {"probability_of_noise_per_pixel": 0.5},
    "Autoreset": {},
    "ClipAction": {},
    "ClipReward": {"min_reward": -1, "max_reward": 1},
    "DelayObservation": {"delay": 1},
    "FilterObservation": {"filter_keys": ["prompt", "sigma"]},
    "FlattenObservation": {},
    "FrameStackObservation": {"stack_size": 2},
    "NormalizeReward": {},
    "ObstructView": {"obstructed_pixels_ratio": 0.5, "obstruction_width": 4},
    "OrderEnforcing": {},
    "PassiveEnvChecker": {},
    "RecordEpisodeStatistics": {},
    "RenderCollection": {},
    "StickyAction": {"repeat_action_probability": 0.5},
    "TimeAwareObservation": {},
    "TimeLimit": {"max_episode_steps": 5},
    "TransformReward": {"func": same},
}
"""Arguments of wrappers of single environments that work as they are."""
OF_SPACES = {"TransformAction": "action_space", "TransformObservation": "observation_space"}
OF_ARRAYS = {
    "DtypeObservation": {"dtype": np.float64},
    "DiscretizeObservation": {"bins": 4},
    "GrayscaleObservation": {},
    "MaxAndSkipObservation": {"skip": 2},
    "NormalizeObservation": {},
    "RescaleObservation": {"min_obs": 0.0, "max_obs": 1.0},
    "ReshapeObservation": {"shape": (1, 1)},
    "ResizeObservation": {"shape": (8, 8)},
}
"""Wrappers of environments whose observation is one array: Gymnasium rejects any other environment at once."""
AFTER_FLATTENING = ("DtypeObservation", "NormalizeObservation")
BOUNDED = {"RescaleAction": {"min_action": -2.0, "max_action": 2.0}, "DiscretizeAction": {"bins": 4}}
"""Wrappers of actions with finite bounds, which the control environments have."""
CONVERSIONS = ("ArrayConversion", "NumpyToTorch")
OTHER = ("AtariPreprocessing",)
HAS_CONVERSIONS = pytest.mark.skipif(find_spec("array_api_compat") is None, reason="needs array-api-compat")
KINDS = pytest.mark.parametrize("name", ["FlexT2I-v0", "FlexT2IControl-v0"])
REFUSALS = (AssertionError, TypeError, ValueError)


def test_no_wrapper_is_forgotten():
    known = {*SINGLE, *OF_SPACES, *OF_ARRAYS, *BOUNDED, *CONVERSIONS, *OTHER, *NEEDS_MODULE}
    assert known == set(wrappers.__all__) - {"vector"}
    found = {*VECTOR, *OF_ARRAYS_OF_VECTORS, *CONVERSIONS, *NEEDS_MODULE, "RescaleAction"}
    assert found == set(vector_wrappers.__all__)


def finishes(env):
    observation, _ = env.reset(seed=0)
    ended = False
    while not np.any(ended):
        assert observation in env.observation_space
        observation, _, ended, *_ = env.step(env.action_space.sample())
    assert observation in env.observation_space
    env.close()


@KINDS
@pytest.mark.parametrize("wrapper", [*SINGLE, *OF_SPACES])
def test_wrappers_work(make, name, wrapper):
    env = make(name, num_steps=2, render_mode="rgb_array")
    arguments = SINGLE.get(wrapper) if wrapper in SINGLE else {"func": same, OF_SPACES[wrapper]: None}
    finishes(getattr(wrappers, wrapper)(env, **arguments))


@KINDS
@pytest.mark.parametrize("wrapper", [*OF_ARRAYS, *OTHER])
def test_wrappers_of_arrays_refuse_observations_by_name(make, name, wrapper):
    with pytest.raises(REFUSALS):
        getattr(wrappers, wrapper)(make(name), **OF_ARRAYS.get(wrapper, {}))
    if wrapper in AFTER_FLATTENING:
        finishes(getattr(wrappers, wrapper)(FlattenObservation(make(name, num_steps=2)), **OF_ARRAYS[wrapper]))


@pytest.mark.parametrize("wrapper", BOUNDED)
def test_wrappers_of_bounded_actions_refuse_latents(make, wrapper):
    with pytest.raises(REFUSALS):
        getattr(wrappers, wrapper)(make("FlexT2I-v0"), **BOUNDED[wrapper])
    finishes(getattr(wrappers, wrapper)(make("FlexT2IControl-v0", num_steps=2), **BOUNDED[wrapper]))


@pytest.mark.parametrize("wrapper", [name for name, module in NEEDS_MODULE.items() if find_spec(module) is None])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_wrappers_that_need_a_library_say_so(make, wrapper, tmp_path):
    arguments = {"video_folder": str(tmp_path)} if wrapper == "RecordVideo" else {}
    with pytest.raises(DependencyNotInstalled):
        getattr(wrappers, wrapper)(make(render_mode="rgb_array"), **arguments).reset()


@HAS_CONVERSIONS
@pytest.mark.parametrize("name", NAMES)
def test_tensors_come_with_their_prompts(make, name):
    scored = rewards.ShapesVerifier(make(name, num_steps=2, render_mode="rgb_array"))
    env = wrappers.NumpyToTorch(scored)
    for each in (env, pickle.loads(pickle.dumps(env))):
        observation, info = each.reset(seed=0, options={"prompt": "a red circle"})
        plain, _ = make(name, num_steps=2).reset(seed=0, options={"prompt": "a red circle"})
        assert info["prompt"].text == "a red circle"
        if "Control" not in name:
            assert observation["prompt"] == "a red circle"
        for key, value in plain.items():
            if not isinstance(value, str):
                np.testing.assert_array_equal(observation[key].numpy(), value)
        ended = False
        while not ended:
            _, _, ended, _, info = each.step(torch.as_tensor(env.action_space.sample()))
        assert info["samples"].dtype == torch.uint8
        assert info["group_rewards"].shape == (2,)


@HAS_CONVERSIONS
def test_tensors_come_with_the_words_of_a_judge():
    env = rewards.UnifiedRewardFlex(gym.make("FlexT2I-v0", group_size=2, num_steps=2), judge="shapes-judge")
    env = wrappers.NumpyToTorch(env)
    env.reset(seed=0)
    env.step(torch.as_tensor(env.action_space.sample()))
    *_, info = env.step(torch.as_tensor(env.action_space.sample()))
    assert len(info["assessments"]) == 1
    env.close()


@HAS_CONVERSIONS
@pytest.mark.parametrize("name", NAMES)
def test_tensors_of_a_vector_come_with_their_prompts(make_vec, name):
    envs = vector_wrappers.NumpyToTorch(make_vec(name, num_steps=1))
    observations, infos = envs.reset(seed=0, options={"prompt": "a red circle"})
    assert [prompt.text for prompt in infos["prompt"]] == ["a red circle"] * 3
    assert observations["sigma"].shape == (3, 1)
    *_, infos = envs.step(torch.as_tensor(envs.action_space.sample()))
    assert infos["samples"].shape[:2] == (3, 2)


VECTOR = {
    "ClipAction": {},
    "ClipReward": {"min_reward": -1, "max_reward": 1},
    "DictInfoToList": {},
    "FilterObservation": {"filter_keys": ["sigma"]},
    "FlattenObservation": {},
    "NormalizeReward": {},
    "RecordEpisodeStatistics": {},
    "TransformAction": {"func": same},
    "TransformObservation": {"func": same},
    "TransformReward": {"func": same},
    "VectorizeTransformAction": {"wrapper": wrappers.ClipAction},
    "VectorizeTransformObservation": {"wrapper": wrappers.FilterObservation, "filter_keys": ["sigma"]},
    "VectorizeTransformReward": {"wrapper": wrappers.ClipReward, "max_reward": 1.0},
}
OF_ARRAYS_OF_VECTORS = {name: arguments for name, arguments in OF_ARRAYS.items() if hasattr(vector_wrappers, name)}


@KINDS
@pytest.mark.parametrize("wrapper", VECTOR)
@pytest.mark.parametrize("mode", ["vector_entry_point", "sync"])
def test_vector_wrappers_work(make_vec, name, wrapper, mode):
    envs = make_vec(name, num_envs=2, num_steps=2, vectorization_mode=mode)
    finishes(getattr(vector_wrappers, wrapper)(envs, **VECTOR[wrapper]))


@pytest.mark.parametrize("wrapper", OF_ARRAYS_OF_VECTORS)
def test_vector_wrappers_of_arrays_refuse_observations_by_name(make_vec, wrapper):
    with pytest.raises(REFUSALS):
        getattr(vector_wrappers, wrapper)(make_vec(), **OF_ARRAYS[wrapper])
