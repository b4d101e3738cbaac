from __future__ import annotations

import numpy as np
import pytest

from envs.render import BACKGROUND, BEST, render_group
from flexgym import FlowPolicy

COLOURS = [(200, 30, 30), (30, 160, 60), (40, 70, 200), (230, 200, 40)]


def pictures(count=4, size=32):
    return np.stack([np.full((size, size, 3), COLOURS[index % 4], np.uint8) for index in range(count)])


def count(picture, colour):
    return int((picture == np.array(colour, np.uint8)).all(axis=-1).sum())


def test_small_pictures_are_enlarged_by_whole_pixels():
    picture = render_group(pictures(), "four squares")
    assert [count(picture, colour) for colour in COLOURS] == [128 * 128] * 4


def test_large_pictures_are_reduced():
    assert render_group(pictures(2, 1024), "large").shape[1] < 900


@pytest.mark.parametrize(("number", "columns"), [(2, 2), (4, 2), (6, 3), (8, 4), (9, 3), (12, 4), (16, 4)])
def test_grids_have_no_empty_places(number, columns):
    assert render_group(pictures(number), "x").shape[1] == 2 * 16 + columns * 128 + (columns - 1) * 12


def test_title_index_and_reward_are_written():
    bare, titled = (render_group(pictures(), title) for title in ("", "a red cube"))
    scored = render_group(pictures(), "a red cube", np.array([0.25, 0.5, np.nan, 0.125], np.float32))
    assert bare.shape == titled.shape == scored.shape
    assert (bare != titled).any(axis=-1)[: 16 + 56].sum() > 100
    assert (scored != titled).any()
    assert count(scored, BEST) > 128 * 4 > count(titled, BEST) == 0


def test_frames_of_one_film_have_one_size():
    long = render_group(pictures(2), "a very long prompt " * 60)
    assert long.shape == render_group(pictures(2), "x").shape
    assert tuple(long[0, 0]) == BACKGROUND


def test_equal_or_missing_rewards_mark_nothing():
    for rewards in (np.full(4, 0.5, np.float32), np.full(4, np.nan, np.float32)):
        assert count(render_group(pictures(), "x", rewards), BEST) == 0


def test_video_plays_and_rewards_show_at_the_end(make):
    env = make("FlexT2V-v0", render_mode="rgb_array")
    policy = FlowPolicy.from_env(env, seed=0)
    observation, _ = env.reset(seed=0)
    first = env.render()
    env.unwrapped.show_rewards(np.array([0.1, 0.9], np.float32))
    assert count(env.render(), BEST) == 0, "a group in the making has no rewards"
    for _ in range(3):
        observation, *_ = env.step(policy(observation))
    frames = [env.render() for _ in range(6)]
    assert first.shape == frames[0].shape
    np.testing.assert_array_equal(frames[0], frames[5])
    assert not np.array_equal(frames[0], frames[1])
    env.unwrapped.show_rewards(np.array([0.1, 0.9], np.float32))
    assert count(env.render(), BEST) > 0
    env.reset()
    assert count(env.render(), BEST) == 0


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
