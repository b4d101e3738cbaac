from __future__ import annotations

import functools

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.vec_env import DummyVecEnv

import flexgym  # noqa: F401
from flexgym import rewards
from flexgym.core.errors import ConfigError, RewardError
from flexgym.sb3 import SB3VecEnv
from tests.generators.tiny import PROMPTS, shared

SAME_STEP = {"autoreset_mode": AutoresetMode.SAME_STEP}
CONTROL = "FlexT2IControl-v0"


def cart_poles(num_envs=3, **settings):
    return gym.make_vec("CartPole-v1", num_envs, vectorization_mode="sync", vector_kwargs=SAME_STEP, **settings)


def small_world(**settings):
    return {"group_size": 1, "num_steps": 2, "decisions": 2, **settings}


def tiny(num_envs=2, **settings):
    arguments = {"generator": shared("sd3"), "prompts": PROMPTS, "group_size": 1, "autoreset_mode": "SameStep"}
    return gym.make_vec(CONTROL, num_envs=num_envs, **(arguments | settings))


def compare(ours, theirs, steps, action):
    """Ours gives what theirs does, in numbers and types, over resets and the ends of episodes."""
    for venv in (ours, theirs):
        venv.seed(3)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert data_equivalence(_plain(ours.reset()), _plain(theirs.reset()), exact=True)
    assert data_equivalence(ours.reset_infos, theirs.reset_infos, exact=True)
    ends = 0
    for _ in range(steps):
        actions = action()
        (observation, *rest, infos), (expected, *others, final) = ours.step(actions), theirs.step(actions)
        assert data_equivalence(_plain(observation), _plain(expected), exact=True)
        for mine, other in zip(rest, others, strict=True):
            np.testing.assert_array_equal(mine, other)
            assert mine.dtype == other.dtype
        assert [sorted(info) for info in infos] == [sorted(info) for info in final]
        assert data_equivalence(_plain(infos), _plain(final), exact=False)
        assert data_equivalence(_plain(ours.reset_infos), _plain(theirs.reset_infos), exact=False)
        ends += int(rest[1].sum())
    return ends


def _plain(value):
    """Without what differs in type alone: an OrderedDict of observations, NumPy scalars in infos."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value.item() if isinstance(value, np.generic) else value


@pytest.mark.parametrize("limit", [9, 500])
def test_any_vector_environment_gives_what_sb3_gives(limit):
    rng = np.random.default_rng(0)
    ours = SB3VecEnv(cart_poles(max_episode_steps=limit))
    theirs = DummyVecEnv([functools.partial(gym.make, "CartPole-v1", max_episode_steps=limit)] * 3)
    ends = compare(ours, theirs, steps=60, action=lambda: rng.integers(2, size=3))
    assert ends > 3


def test_a_batch_of_groups_gives_what_sb3_gives():
    rng = np.random.default_rng(0)
    batch = gym.make_vec(CONTROL, num_envs=2, autoreset_mode="SameStep", **small_world())
    single = functools.partial(lambda: rewards.ShapesVerifier(gym.make(CONTROL, **small_world())))
    ours, theirs = SB3VecEnv(rewards.vector.ShapesVerifier(batch)), DummyVecEnv([single] * 2)
    ends = compare(ours, theirs, steps=4, action=lambda: rng.uniform(-1, 1, (2, 2)).astype(np.float32))
    assert ends == 4


def test_the_end_of_an_episode_shows_its_own_last_observation():
    venv = SB3VecEnv(tiny(decisions=3))
    venv.reset()
    for end in (False, False, True):
        observation, _, ended, infos = venv.step(np.zeros((2, 2), np.float32))
        assert ended.tolist() == [end, end]
    assert observation["progress"].tolist() == [[0.0], [0.0]]
    assert infos[0]["terminal_observation"]["progress"] == 1.0
    assert infos[0]["terminal_observation"]["last_action"].tolist() == [0.0, 0.0]
    assert infos[0]["samples"].shape == (1, *shared("sd3").sample_shape)
    assert infos[0]["TimeLimit.truncated"] is False


def test_truncation_is_told_from_an_end():
    venv = SB3VecEnv(cart_poles(max_episode_steps=2))
    venv.reset()
    infos = [venv.step(np.zeros(3, np.int64))[3] for _ in range(2)]
    assert [info["TimeLimit.truncated"] for info in infos[0]] == [False] * 3
    assert [info["TimeLimit.truncated"] for info in infos[1]] == [True] * 3


def test_seeds_and_options_hold_for_one_reset():
    venv = SB3VecEnv(tiny())
    venv.seed(4)
    venv.set_options({"prompt": PROMPTS[1]})
    first = venv.reset()
    assert [info["prompt"].text for info in venv.reset_infos] == [PROMPTS[1]] * 2
    drawn = {venv.reset_infos[0]["prompt"].text for _ in range(20) if venv.reset() is not None}
    assert drawn == set(PROMPTS)
    venv.seed(4)
    venv.set_options({"prompt": PROMPTS[1]})
    assert data_equivalence(first, venv.reset(), exact=True)
    venv.set_options([{"prompt": PROMPTS[0]}, {}])
    with pytest.raises(ConfigError, match="same options"):
        venv.reset()


def test_attributes_and_methods_of_a_batch_are_those_of_every_environment():
    venv = SB3VecEnv(rewards.vector.ShapesVerifier(tiny(render_mode="rgb_array")))
    assert venv.render_mode == "rgb_array"
    assert venv.get_attr("generator") == [shared("sd3")] * 2
    assert venv.get_attr("group_size", indices=1) == [1]
    assert not venv.has_attr("nothing")
    venv.set_attr("note", 5)
    assert venv.get_attr("note") == [5, 5]
    with pytest.raises(ConfigError, match="a batch is one object"):
        venv.set_attr("note", 5, indices=[0])
    assert venv.env_is_wrapped(TimeLimit) == [False, False]
    venv.reset()
    images = venv.get_images()
    assert len(images) == 2
    assert images[0].ndim == 3
    assert venv.render().ndim == 3
    venv.close()


def test_attributes_and_methods_of_separate_environments_stay_apart():
    venv = SB3VecEnv(cart_poles())
    venv.set_attr("note", 7)
    assert venv.get_attr("note", indices=[0, 2]) == [7, 7]
    assert venv.env_is_wrapped(TimeLimit) == [True] * 3
    assert venv.env_method("has_wrapper_attr", "note") == [True] * 3
    assert venv.get_images() == [None] * 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tiny(autoreset_mode="NextStep"), "autoreset_mode='SameStep'"),
        (lambda: gym.make_vec("CartPole-v1", 2, vectorization_mode="sync"), "vector_kwargs"),
        (
            lambda: gym.make_vec("FlexT2I-v0", 2, generator=shared("sd3"), autoreset_mode="SameStep"),
            r"cannot observe PromptSpace\(2048\) under 'prompt'",
        ),
        (lambda: cart_poles_with_unbounded_actions(), "bounded action space"),
    ],
)
def test_what_stable_baselines_cannot_use_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        SB3VecEnv(make())


def cart_poles_with_unbounded_actions():
    envs = cart_poles()
    envs.single_action_space = gym.spaces.Box(-np.inf, np.inf, (1,))
    return envs


def test_a_group_without_a_score_is_an_error_and_not_a_reward():
    venv = SB3VecEnv(rewards.vector.ShapesVerifier(tiny(decisions=1)))
    venv.reset()
    with pytest.raises(RewardError, match=r"environments \[0, 1\] earned no number"):
        venv.step(np.zeros((2, 2), np.float32))
