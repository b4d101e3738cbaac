from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from flexgym.core.errors import ConfigError
from flexgym.judge import JudgeFailure
from flexgym.reward import PointwiseReward, Reward
from flexgym.reward.wrappers import INFO_KEYS, RewardWrapper, VectorRewardWrapper
from flexgym.types import GroupScores, Prompt

GROUP = 3


class GroupEnv(gym.Env):
    """Ends after ``length`` steps with a group whose gray values are drawn from the environment's generator."""

    observation_space = gym.spaces.Box(0, 1, (1,))
    action_space = gym.spaces.Box(0, 1, (1,))

    def __init__(self, length=2, prompt=None, *, preview=False, truncate=False):
        self.length, self.preview, self.truncate = length, preview, truncate
        self.prompt = prompt or Prompt(f"length {length}", {"length": length})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {"prompt": self.prompt}

    def step(self, action):
        self.steps += 1
        ended = self.steps == self.length
        info = {"prompt": self.prompt, "step": self.steps}
        if ended or self.preview:
            values = self.np_random.integers(0, 200, (GROUP, 1, 1, 1))
            info["samples"] = np.broadcast_to(values, (GROUP, 4, 4, 3)).astype(np.uint8)
        return np.zeros(1, np.float32), 0.25, ended and not self.truncate, ended and self.truncate, info


class Gray(PointwiseReward):
    """Mean value; fails for values below ``floor``."""

    name = "grey"

    def __init__(self, floor=-1.0):
        self.floor, self.calls = floor, 0

    def score(self, groups):
        self.calls += 1
        return super().score(groups)

    def score_samples(self, prompt, samples):
        values = samples.mean(axis=(1, 2, 3))
        return np.where(values < self.floor, np.nan, values)


class Rich(Reward):
    """Fills every field of the scores, with failures for odd groups only."""

    def score(self, groups):
        return [self._one(group) for group in groups]

    def _one(self, group):
        values = group.samples.mean(axis=(1, 2, 3)).astype(np.float32)
        odd = int(values[0]) % 2
        return GroupScores(
            rewards=values,
            terms={"dim": values / 2, "overall": values * 2},
            weights={"dim": 0.7, "overall": 0.3},
            failures={"unparsable": 2} if odd else {},
            assessments=(JudgeFailure("unparsable", group.prompt.text), JudgeFailure("invalid", "x")),
        )


def run(env, steps, seed=0):
    env.reset(seed=seed)
    return [env.step(env.action_space.sample()) for _ in range(steps)]


def test_only_the_last_step_is_scored():
    env = RewardWrapper(GroupEnv(), Gray())
    first, last = run(env, 2)
    assert first[1] == 0.25
    assert not set(INFO_KEYS) & set(first[4])
    expected = last[4]["samples"].mean(axis=(1, 2, 3))
    np.testing.assert_array_equal(last[4]["group_rewards"], expected)
    assert last[4]["group_rewards"].dtype == np.float32
    assert last[1] == pytest.approx(expected.mean())
    assert isinstance(last[1], float)
    assert set(INFO_KEYS) <= set(last[4])
    np.testing.assert_array_equal(last[4]["reward_terms"]["grey"], expected)


def test_previews_earn_nothing_and_cost_nothing():
    env = RewardWrapper(GroupEnv(3, preview=True), Gray())
    steps = run(env, 3)
    assert [step[1] for step in steps[:2]] == [0.25, 0.25]
    assert env.scorer.calls == 1
    assert "group_rewards" in steps[2][4]


def test_truncation_ends_an_episode_too():
    assert "group_rewards" in run(RewardWrapper(GroupEnv(1, truncate=True), Gray()), 1)[0][4]


def test_failed_samples_are_masked_from_the_mean():
    env = RewardWrapper(GroupEnv(1), Gray(floor=150))
    reward, info = run(env, 1)[0][1::3]
    values = info["samples"].mean(axis=(1, 2, 3))
    assert 0 < (values < 150).sum() < GROUP
    assert reward == pytest.approx(values[values >= 150].mean())
    np.testing.assert_array_equal(np.isnan(info["group_rewards"]), values < 150)
    assert info["reward_failures"] == {"grey": (values < 150).sum()}


def test_a_group_without_any_score_has_no_reward():
    single = run(RewardWrapper(GroupEnv(1), Gray(floor=300)), 1)[0]
    assert np.isnan(single[1])
    assert single[4]["reward_failures"] == {"grey": GROUP}
    vector = run(VectorRewardWrapper(SyncVectorEnv([GroupEnv] * 2), Gray(floor=300)), 2)[1]
    assert np.isnan(vector[1]).all()


def test_prompt_is_asked_for():
    with pytest.raises(ConfigError, match=r"flexgym\.types\.Prompt under info\['prompt'\], got str"):
        run(RewardWrapper(GroupEnv(1, prompt="a red circle"), Gray()), 1)
    with pytest.raises(ConfigError, match="got str"):
        run(VectorRewardWrapper(SyncVectorEnv([lambda: GroupEnv(1, prompt="a red circle")]), Gray()), 1)


@pytest.mark.parametrize("mode", AutoresetMode)
@pytest.mark.parametrize("make_reward", [Gray, lambda: Gray(floor=100), Rich])
def test_wrapper_of_vector_equals_vector_of_wrapper(mode, make_reward):
    lengths = (2, 2, 2) if mode is AutoresetMode.DISABLED else (1, 2, 3)
    steps = 2 if mode is AutoresetMode.DISABLED else 7

    def inner(length):
        return lambda: GroupEnv(length, preview=length == 3)

    def outer(length):
        return lambda: RewardWrapper(inner(length)(), make_reward())

    wrapped = VectorRewardWrapper(SyncVectorEnv([inner(k) for k in lengths], autoreset_mode=mode), make_reward())
    reference = SyncVectorEnv([outer(k) for k in lengths], autoreset_mode=mode)
    scored = 0
    for ours, theirs in zip(run(wrapped, steps), run(reference, steps), strict=True):
        np.testing.assert_array_equal(ours[1], theirs[1])
        assert ours[1].dtype == theirs[1].dtype
        assert_same(ours[4], theirs[4])
        scored += "group_rewards" in ours[4].get("final_info", ours[4])
    assert scored


def assert_same(ours, theirs):
    """Equal in keys, types and values, with NaN equal to NaN."""
    assert set(ours) == set(theirs)
    for key, value in ours.items():
        if isinstance(value, dict):
            assert_same(value, theirs[key])
        elif value.dtype == object:
            assert list(map(repr, value)) == list(map(repr, theirs[key]))
        else:
            assert value.dtype == theirs[key].dtype, key
            np.testing.assert_array_equal(value, theirs[key], err_msg=key)


def test_vector_scores_all_ended_groups_in_one_call():
    env = VectorRewardWrapper(SyncVectorEnv([GroupEnv] * 4), Gray())
    infos = run(env, 2)[1][4]
    assert env.scorer.calls == 1
    assert infos["group_rewards"].shape == (4, GROUP)
    assert infos["_group_rewards"].all()


def test_outer_wrapper_replaces_what_an_inner_one_found():
    single = RewardWrapper(RewardWrapper(GroupEnv(1), Rich()), Gray())
    vector = VectorRewardWrapper(VectorRewardWrapper(SyncVectorEnv([lambda: GroupEnv(1)]), Rich()), Gray())
    info, infos = run(single, 1)[0][4], run(vector, 1)[0][4]
    assert set(info["reward_terms"]) == {"grey"}
    assert set(infos["reward_terms"]) == {"grey", "_grey"}
    assert data_equivalence(info["group_rewards"], infos["group_rewards"][0])


def test_rewards_are_shown_to_environments_that_draw_them():
    class Drawing(GroupEnv):
        def show_rewards(self, rewards):
            self.shown = rewards

    class DrawingVector(SyncVectorEnv):
        def show_rewards(self, rewards):
            self.shown = rewards

    single = RewardWrapper(gym.Wrapper(Drawing(1)), Gray())
    info = run(single, 1)[0][4]
    np.testing.assert_array_equal(single.unwrapped.shown, info["group_rewards"])
    vector = VectorRewardWrapper(DrawingVector([lambda: Drawing(1), lambda: Drawing(2)]), Gray())
    infos = run(vector, 1)[0][4]
    np.testing.assert_array_equal(vector.unwrapped.shown, [infos["group_rewards"][0], [np.nan] * GROUP])


def test_close_reaches_reward_and_environment():
    class Closing(Gray):
        closed = False

        def close(self):
            self.closed = True

    for env in (RewardWrapper(GroupEnv(), Closing()), VectorRewardWrapper(SyncVectorEnv([GroupEnv]), Closing())):
        env.reset()
        env.close()
        assert env.scorer.closed
