from __future__ import annotations

import numpy as np

from flexgym import FlowPolicy
from flexgym.core.grids import GOOD


def count(image, color):
    return int((image == np.array(color, np.uint8)).all(axis=-1).sum())


def test_video_plays_and_rewards_show_at_the_end(make):
    env = make("FlexT2V-v0", render_mode="rgb_array")
    policy = FlowPolicy.from_env(env, seed=0)
    observation, _ = env.reset(seed=0)
    first = env.render()
    env.unwrapped.show_rewards(np.array([0.1, 0.9], np.float32))
    assert count(env.render(), GOOD) == 0, "a group in the making has no rewards"
    for _ in range(3):
        observation, *_ = env.step(policy(observation))
    frames = [env.render() for _ in range(6)]
    assert first.shape == frames[0].shape
    np.testing.assert_array_equal(frames[0], frames[5])
    assert not np.array_equal(frames[0], frames[1])
    env.unwrapped.show_rewards(np.array([0.1, 0.9], np.float32))
    assert count(env.render(), GOOD) > 0
    env.reset()
    assert count(env.render(), GOOD) == 0


def test_rendering_leaves_the_episode_alone(make):
    ends = []
    for render in (False, True):
        env = make(render_mode="rgb_array")
        policy = FlowPolicy.from_env(env, seed=0)
        observation, _ = env.reset(seed=0)
        for _ in range(3):
            if render:
                env.render()
            observation, *_, info = env.step(policy(observation))
        ends.append(info["samples"])
    np.testing.assert_array_equal(*ends)
