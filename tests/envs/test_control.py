from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3.common.env_checker as sb3_checker
from gymnasium.utils.env_checker import data_equivalence

from flexgym import FlowPolicy, rewards
from flexgym.algorithm.rollout import sample
from flexgym.core.errors import ActionError, ConfigError, UnknownNameError
from flexgym.envs.features import PROMPT_FEATURES, prompt_features
from flexgym.generators.loader import load_generator
from flexgym.shapes.captions import IMAGE_CATEGORIES, parse_caption, training_prompts
from tests.generators.tiny import shared

BOTH = pytest.mark.parametrize("name", ["FlexT2IControl-v0", "FlexT2VControl-v0"])


def same(ours, theirs):
    assert data_equivalence(ours, theirs, exact=True)


def episode(env, seed, action=None):
    """Observation of the reset, all that the last step gave, and the number of steps."""
    first, _ = env.reset(seed=seed)
    steps, terminated = 0, False
    while not terminated:
        last = env.step(env.unwrapped.default_action if action is None else np.float32(action))
        terminated, steps = last[2], steps + 1
    return first, last, steps


@BOTH
@pytest.mark.parametrize("decisions", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_the_checker_of_stable_baselines_passes_without_a_warning(make, name, decisions):
    env = make(name, decisions=decisions, render_mode="rgb_array")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        sb3_checker.check_env(env, skip_render_check=False)


@BOTH
def test_one_decision_makes_the_whole_group(make, name):
    env = make(name)
    first, (observation, reward, terminated, truncated, info), steps = episode(env, seed=3, action=[0.5, 0.0])
    assert (steps, reward, terminated, truncated) == (1, 0.0, True, False)
    assert info["samples"].shape == (2, *env.unwrapped.generator.sample_shape)
    assert (first["progress"].item(), first["sigma"].item()) == (0.0, 1.0)
    assert (observation["progress"].item(), observation["sigma"].item()) == (1.0, 0.0)
    assert observation["last_action"].tolist() == [0.5, 0.0]
    least, greatest = 1.0, max(2 * env.unwrapped.generator.settings.guidance_scale, 3.0)
    assert info["guidance_scale"] == pytest.approx(least + 0.75 * (greatest - least), abs=1e-4)
    assert info["eta"] == 0.5


@BOTH
@pytest.mark.parametrize("decisions", [1, 2, 3])
def test_the_default_action_samples_as_the_pipeline_does(make, name, decisions):
    env = make(name, decisions=decisions)
    _, (*_, info), steps = episode(env, seed=8)
    assert steps == decisions
    generator = env.unwrapped.generator
    assert (info["guidance_scale"], info["eta"]) == (generator.settings.guidance_scale, 0.0)
    plain = make(name.replace("Control", ""), preview=False)
    policy = FlowPolicy.from_env(plain, noise="ode")
    observation, _ = plain.reset(seed=8)
    terminated = False
    while not terminated:
        observation, _, terminated, _, expected = plain.step(policy(observation))
    assert info["prompt"] == expected["prompt"]
    np.testing.assert_array_equal(info["samples"], expected["samples"])


def test_the_embedded_default_is_what_evaluation_samples():
    env = gym.make("FlexT2IControl-v0", group_size=1)
    *_, info = episode(env, seed=5)[1]
    generator = load_generator(modality="image")
    seed = int(np.random.Generator(np.random.PCG64(5)).integers(2**63))
    np.testing.assert_array_equal(info["samples"], sample(generator, [info["prompt"].text], seeds=[seed]))


def test_another_seed_is_another_group(make):
    first, other = (episode(make("FlexT2IControl-v0"), seed=seed, action=[0.2, 0.9])[1][4] for seed in (5, 6))
    assert not np.array_equal(first["samples"], other["samples"])


def test_seeds_and_prompts_of_a_vector_are_those_of_single_environments(make_vec):
    ours, theirs = (make_vec("FlexT2IControl-v0", vectorization_mode=mode) for mode in ("vector_entry_point", "sync"))
    same(*(envs.reset(seed=[3, 1, 2], options={"prompt": "a blue ball"}) for envs in (ours, theirs)))


@pytest.mark.parametrize("action", [[0.0, -1.0], [-1.0, 1.0]])
def test_each_number_of_the_action_changes_the_samples(make, action):
    default, other = (episode(make("FlexT2IControl-v0"), seed=1, action=chosen)[1] for chosen in ([-1.0, -1.0], action))
    assert not np.array_equal(default[4]["samples"], other[4]["samples"])


def test_a_later_decision_changes_what_is_left_of_the_way(make):
    env = make("FlexT2IControl-v0", decisions=3, preview=True)
    shown = []
    for last in ([0.0, -1.0], [1.0, -1.0]):
        env.reset(seed=4)
        (early, *_), late = env.step(np.float32([0.0, -1.0])), None
        env.step(np.float32([0.0, -1.0]))
        *_, late = env.step(np.float32(last))
        shown.append((early["sigma"].item(), late["samples"]))
    assert shown[0][0] == shown[1][0] == env.unwrapped.sigmas[1]
    assert not np.array_equal(shown[0][1], shown[1][1])


def test_a_vector_of_one_mode_may_be_reset_in_parts(make_vec):
    envs = make_vec("FlexT2IControl-v0", autoreset_mode="Disabled", decisions=2)
    envs.reset(seed=0)
    before, *_ = envs.step(np.zeros((3, 2), np.float32))
    after, _ = envs.reset(options={"reset_mask": np.array([True, False, False])})
    assert after["progress"][:, 0].tolist() == [0.0, before["progress"][1, 0], before["progress"][2, 0]]
    assert after["last_action"].tolist() == [envs.unwrapped.default_action.tolist(), [0, 0], [0, 0]]


def test_reward_wrappers_score_the_group_at_its_end():
    env = rewards.ShapesVerifier(gym.make("FlexT2IControl-v0", group_size=2, decisions=2, render_mode="rgb_array"))
    env.reset(seed=0, options={"prompt": "a red circle"})
    _, reward, terminated, _, info = env.step(np.float32([-1, -1]))
    assert (reward, terminated, "group_rewards" in info) == (0.0, False, False)
    _, reward, terminated, _, info = env.step(np.float32([-1, -1]))
    assert terminated
    assert reward == pytest.approx(info["group_rewards"].mean())
    assert info["group_rewards"].shape == (2,)
    assert env.render().ndim == 3


def test_reward_wrappers_of_vectors_equal_those_of_single_environments():
    envs = rewards.vector.ShapesVerifier(gym.make_vec("FlexT2IControl-v0", num_envs=2, group_size=2))
    envs.reset(seed=3)
    _, together, terminated, _, infos = envs.step(np.float32([[-1, 1], [0, 0]]))
    assert terminated.all()
    for slot, action in enumerate([[-1, 1], [0, 0]]):
        env = rewards.ShapesVerifier(gym.make("FlexT2IControl-v0", group_size=2))
        _, (_, alone, *_, info), _ = episode(env, seed=3 + slot, action=action)
        assert alone == together[slot]
        np.testing.assert_array_equal(info["samples"], infos["samples"][slot])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        ([0.0, 1.5], "ClipAction"),
        ([np.nan, 0.0], "within -1 and 1"),
        ([0.0], r"shape \(1, 2\)"),
        ("much", "float32 array"),
    ],
)
def test_a_refused_action_changes_nothing(make, spoil, message):
    env = make("FlexT2IControl-v0").unwrapped
    with pytest.raises(ActionError, match="reset"):
        env.step(env.default_action)
    env.reset(seed=0)
    with pytest.raises(ActionError, match=message):
        env.step(spoil)
    refused = env.step(np.float32([0.1, 0.2]))
    same(refused, episode(make("FlexT2IControl-v0"), seed=0, action=[0.1, 0.2])[1])
    with pytest.raises(ActionError, match="reset"):
        env.step(env.default_action)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"decision": 2}, UnknownNameError, "Did you mean 'decisions'"),
        ({"decisions": 4}, ConfigError, "from 1 to the 3 denoising steps"),
        ({"decisions": True}, ConfigError, "whole number"),
        ({"guidance": (3.0, 1.0)}, ConfigError, "guidance must be two finite values"),
        ({"guidance": 3.0}, ConfigError, "a lowest and a highest value"),
        ({"eta": (0.0, 1.5)}, ConfigError, r"eta of CPS must be in \[0, 1\]"),
        ({"noise": "cp"}, UnknownNameError, "Did you mean 'cps'"),
        ({"noise": "matching"}, UnknownNameError, "Known: cps, dance, dance_precise, flow, ode, precise"),
        ({"group_size": 0}, ConfigError, "at least 1,"),
    ],
)
def test_arguments_that_cannot_work_are_refused(make, arguments, error, message):
    with pytest.raises(error, match=message):
        make("FlexT2IControl-v0", **arguments)


def test_bounds_without_the_default_take_the_nearest(make):
    env = make("FlexT2IControl-v0", guidance=(8.0, 12.0), eta=(0.25, 0.75), noise="flow")
    assert env.unwrapped.default_action.tolist() == [-1.0, -1.0]
    *_, info = episode(env, seed=0)[1]
    assert (info["guidance_scale"], info["eta"]) == (8.0, 0.25)


@pytest.mark.slow
def test_a_linear_probe_reads_the_category_from_the_features():
    generator = load_generator(modality="image")
    captions = [training_prompts("image")[index] for index in np.random.default_rng(0).permutation(3000)[:450]]
    features = np.stack([prompt_features(generator, caption) for caption in captions])
    assert features.shape == (450, PROMPT_FEATURES)
    np.testing.assert_allclose(np.square(features).mean(1), 1.0, rtol=1e-5)
    labels = np.array([IMAGE_CATEGORIES.index(parse_caption(caption).category) for caption in captions])
    design = np.concatenate([features, np.ones((450, 1))], 1)
    weights = np.linalg.lstsq(design[:300], np.eye(6)[labels[:300]], rcond=None)[0]
    assert ((design[300:] @ weights).argmax(1) == labels[300:]).mean() > 0.9


def test_the_empty_prompt_has_finite_features():
    assert (prompt_features(shared("sd3"), "") == 0).all()
