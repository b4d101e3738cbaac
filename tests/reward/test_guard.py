from __future__ import annotations

import json
import threading
import time

import gymnasium as gym
import numpy as np
import pytest
from PIL import Image

from flexgym import rewards
from flexgym.core.errors import ConfigError, JudgeUnavailableError, UnknownNameError
from flexgym.judge.inputs import read_video
from flexgym.reward import PointwiseReward, Reward, build
from flexgym.reward.guard import DeadlineError, FailedSamples, OneAtATime
from flexgym.reward.wrappers import RewardWrapper
from flexgym.rllib.algorithm import reward_metrics
from flexgym.types import GroupScores, Prompt, SampleGroup
from tests.reward.test_wrappers import GroupEnv, run


class ByFunction(Reward):
    """Scores groups by a function."""

    def __init__(self, function):
        self.function = function

    def score(self, groups):
        return self.function(groups)


def group(count=3, text="a cat"):
    return SampleGroup(Prompt(text, {"category": "animal"}), np.arange(count * 48, dtype=np.uint8).reshape(-1, 4, 4, 3))


def scores(*rewards, **fields):
    return GroupScores(rewards=np.array(rewards, np.float32), **fields)


def raising(error):
    def function(groups):
        raise error

    return function


@pytest.mark.parametrize(
    ("function", "kind", "detail"),
    [
        (raising(KeyError("weights")), "raised", "KeyError: 'weights'"),
        (raising(ConnectionResetError("gone")), "raised", "ConnectionResetError: gone"),
        (raising(TimeoutError("server is slow")), "timed_out", "TimeoutError: server is slow"),
        (lambda groups: [], "invalid", "expected the scores of 1 groups, got 0"),
        (lambda groups: None, "raised", "TypeError"),
        (lambda groups: [[1.0, 2.0, 3.0]], "invalid", "expected GroupScores, got list"),
        (lambda groups: [scores(1, 2)], "invalid", "expected scores of shape (3,), got (2,)"),
        (lambda groups: [scores(1, 2)] * 2, "invalid", "expected the scores of 1 groups, got 2"),
        (lambda groups: [GroupScores(rewards="good")], "raised", "ValueError"),
        (lambda groups: [scores(*[np.nan] * 3)], "invalid", "expected a finite number, got nan"),
        (lambda groups: [scores(np.inf, -np.inf, np.nan)], "invalid", "got -inf"),
    ],
)
def test_whatever_a_reward_does_its_samples_are_unscored_and_kept(function, kind, detail):
    reward, asked = ByFunction(function), group()
    found = reward.guarded([asked])[0]
    assert np.isnan(found.rewards).all()
    assert found.rewards.shape == (3,)
    assert found.failures == {"by_function": 3}
    kept = reward.failed.latest()
    assert [failed.reward for failed in kept] == ["by_function"] * 3
    assert all(failed.failure.kind == kind and failed.prompt is asked.prompt for failed in kept)
    assert any(detail in failed.failure.detail for failed in kept)
    np.testing.assert_array_equal([failed.sample for failed in kept], asked.samples)


def test_what_is_scored_stays_beside_what_is_not():
    reward = ByFunction(lambda groups: [scores(1, np.inf, 3, terms={"a": np.array([1, np.inf, 2])}), scores(4, 5, 6)])
    first, second = reward.guarded([group(), group()])
    np.testing.assert_array_equal(first.rewards, [1, np.nan, 3])
    np.testing.assert_array_equal(first.terms["a"], [1, np.nan, 2])
    assert first.failures == {"by_function": 1}
    assert second.failures == {}
    assert [failed.failure.detail for failed in reward.failed.latest()] == ["expected a finite number, got inf"]


def test_failures_that_a_reward_has_counted_are_not_counted_again():
    told = scores(np.nan, 2, np.inf, failures={"unparsable": 4})
    assert ByFunction(lambda groups: [told]).guarded([group()])[0].failures == {"unparsable": 4, "by_function": 1}


def test_errors_that_are_meant_to_stop_pass_through():
    with pytest.raises(JudgeUnavailableError):
        ByFunction(raising(JudgeUnavailableError("no server"))).guarded([group()])
    with pytest.raises(KeyboardInterrupt):
        ByFunction(raising(KeyboardInterrupt())).guarded([group()])


def test_a_late_reward_is_a_failed_score_and_never_meets_itself():
    gate, at_work = threading.Event(), []

    def slow(groups):
        at_work.append(len(at_work))
        assert len(at_work) == 1 or gate.is_set()
        assert gate.wait(20)
        return [scores(1, 2, 3)]

    reward = ByFunction(slow)
    reward.deadline_s = 0.1
    started = time.monotonic()
    for _ in range(3):
        found = reward.guarded([group()])[0]
        assert np.isnan(found.rewards).all()
        assert found.failures == {"by_function": 3}
    assert time.monotonic() - started < 5
    assert {failed.failure.kind for failed in reward.failed.latest()} == {"timed_out"}
    assert "no score within 0.1 s" in reward.failed.latest()[-1].failure.detail
    assert at_work == [0]  # the second and the third call waited for the first and did not start
    gate.set()
    reward.deadline_s = 20
    np.testing.assert_array_equal(reward.guarded([group()])[0].rewards, [1, 2, 3])


def test_a_deadline_returns_and_raises_what_the_work_does():
    calls = OneAtATime()
    assert calls.call(lambda: 5, 10) == 5
    with pytest.raises(TimeoutError, match="my own") as caught:
        calls.call(lambda: raising(TimeoutError("my own"))(None), 10)
    assert not isinstance(caught.value, DeadlineError)
    with pytest.raises(ZeroDivisionError):
        calls.call(lambda: 1 / 0, 10)


@pytest.mark.parametrize("video", [False, True])
def test_failed_samples_are_written_up_to_a_limit(tmp_path, video):
    samples = np.random.default_rng(0).integers(0, 255, (3, *([5] if video else []), 16, 16, 3), np.uint8)
    reward = ByFunction(raising(ValueError("broken")))
    reward.failed = FailedSamples(tmp_path / "failed", limit=2)
    reward.guarded([SampleGroup(Prompt("a cat", {"category": "animal"}), samples)])
    reports = sorted((tmp_path / "failed").glob("*.json"))
    assert len(reports) == 2
    assert json.loads(reports[0].read_text()) == {
        "reward": "by_function",
        "kind": "raised",
        "detail": "ValueError: broken",
        "prompt": "a cat",
        "metadata": {"category": "animal"},
    }
    media = [path.with_suffix(".mp4" if video else ".png") for path in reports]
    if video:
        assert read_video(media[0], num_frames=5).shape == (5, 16, 16, 3)
    else:
        written = [np.asarray(Image.open(path)).tobytes() for path in media]
        assert set(written) == {samples[0].tobytes(), samples[1].tobytes()}
    assert len(reward.failed.latest()) == 2


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    reward = ByFunction(raising(ValueError("broken")))
    reward.failed = FailedSamples(tmp_path / "file")
    assert reward.guarded([group()])[0].failures == {"by_function": 3}
    assert "could not be written" in caplog.text


def test_pointwise_failures_are_kept_with_their_reason():
    class Bright(PointwiseReward):
        def score_samples(self, prompt, samples):
            return [1.0, np.nan, np.inf]

    reward = Bright()
    found = reward.guarded([group()])[0]
    np.testing.assert_array_equal(found.rewards, [1, np.nan, np.nan])
    assert found.failures == {"bright": 2}
    kept = reward.failed.latest()
    assert [failed.failure.detail[-3:] for failed in kept] == ["nan", "inf"]


def test_names_follow_from_the_class():
    class MyVQAScore(ByFunction):
        pass

    assert MyVQAScore.name == "my_vqa_score"


def test_the_wrapper_keeps_the_protocol():
    env = RewardWrapper(GroupEnv(1), ByFunction(raising(ValueError("broken"))))
    reward, info = run(env, 1)[0][1::3]
    assert np.isnan(reward)
    assert info["reward_failures"] == {"by_function": 3}
    assert len(env.scorer.failed.latest()) == 3


def test_submitted_work_keeps_the_protocol():
    reward = ByFunction(raising(ValueError("broken")))
    assert reward.submit([group()]).result(10)[0].failures == {"by_function": 3}
    reward.close()


def test_every_reward_takes_the_settings_of_the_protocol(tmp_path):
    reward = rewards.make("shapes_verifier", deadline_s=7, failed_samples=tmp_path / "failed")
    assert reward.deadline_s == 7.0
    reward.guarded([group()])  # no caption of the small world
    assert len(list((tmp_path / "failed").glob("*.png"))) == 3
    wrapped = rewards.ShapesOracle(GroupEnv(1), deadline_s=3.5, alpha=0.5)
    assert wrapped.scorer.deadline_s == 3.5
    vector = rewards.vector.ShapesVerifier(gym.vector.SyncVectorEnv([GroupEnv]), deadline_s=2)
    assert vector.scorer.deadline_s == 2.0


def test_settings_are_checked():
    with pytest.raises(UnknownNameError, match="Did you mean 'function'"):
        build(ByFunction, {"functon": print})
    with pytest.raises(UnknownNameError, match="Did you mean 'deadline_s'"):
        build(ByFunction, {"function": print, "deadline": 3})
    with pytest.raises(ConfigError, match="missing a required argument: 'function'"):
        build(ByFunction, {})
    for bad in (0, -1, float("nan"), float("inf"), "soon", True):
        with pytest.raises(ConfigError, match="deadline_s of by_function: expected (a (finite )?)?number"):
            build(ByFunction, {"function": print, "deadline_s": bad})


def test_a_group_that_failed_altogether_is_counted_in_the_metrics_beside_others():
    good = scores(1, 2, 3, terms={"a": np.array([1, 2, 3], np.float32)}, weights={"a": 1.0})
    bad = ByFunction(raising(ValueError("broken"))).guarded([group()])[0]
    metrics = reward_metrics([bad, good], np.zeros((2, 3), np.float32))
    assert metrics["reward/a"] == 2.0
    assert metrics["reward_unscored_share/a"] == 0.5
    assert metrics["reward_std_within_group/a"] == pytest.approx(np.std([1, 2, 3]))
    assert metrics["reward/failures"] == 3
