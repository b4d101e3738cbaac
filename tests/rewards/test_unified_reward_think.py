from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import flexgym
from flexgym import rewards
from flexgym.core.errors import JudgeFailureShareError, UnknownNameError
from flexgym.flow import blended_advantages, group_advantages
from flexgym.judge import JudgeFailure, Verdict
from tests.judge.backends.tiny_qwen_vl import save_tiny_qwen_vl
from tests.rewards.seeing_server import gray_group, seeing_server


def brighter(means, text):
    """Prefers the brighter half of the images; the scores are tenths of the brightness."""
    label = "Video" if "two videos" in text else "Image"
    first, second = (part.mean() / 26 for part in np.split(means, 2))
    return (
        f"<think>\n1. Semantic consistency:\n    {label} 1 ({first:.1f}/10) - grey;\n    {label} 2 ({second:.1f}/10)"
        f" - grey\nTotal score:\n{label} 1: {first:.1f}\n{label} 2: {second:.1f}\n</think>\n"
        f"<answer>{label} {1 if first > second else 2} is better</answer>"
    )


@pytest.fixture
def server():
    with seeing_server(brighter, record=True) as running:
        yield running


@pytest.mark.parametrize("frames", [None, 9])
def test_win_rates_follow_the_answers(server, frames):
    reward = rewards.make("UnifiedRewardThink", judge=server.url)
    first, second = reward.score([gray_group(40, 200, 120, frames=frames), gray_group(250, 10, frames=frames)])
    metrics = reward.metrics()
    reward.close()
    np.testing.assert_array_equal(first.rewards, [0, 1, 0.5])
    np.testing.assert_array_equal(second.rewards, [1, 0])
    np.testing.assert_array_equal(first.terms["dim"], first.terms["overall"])
    assert all(isinstance(outcome, Verdict) and outcome.consistent for outcome in first.assessments)
    assert first.failures == {}
    assert metrics["requests"] == 4
    *pictures, text = server.bodies[0]["messages"][0]["content"]
    assert len(pictures) == (2 if frames is None else 16)
    assert "<answer>" in text["text"]
    advantages = blended_advantages({name: [first.terms[name]] for name in first.weights}, first.weights)
    np.testing.assert_allclose(advantages, group_advantages([first.rewards]), rtol=1e-6)


def test_margins_by_hand(server):
    reward = rewards.make("UnifiedRewardThink", judge=server.url, tournament={"aggregation": "margin"})
    [scores] = reward.score([gray_group(26, 78, 130)])
    reward.close()
    # scores 1, 3 and 5 of 10: shares 1/4 against 3/8 of 3 and 5, and 1/6 of 1 and 5
    np.testing.assert_allclose(
        scores.rewards, [(1 / 4 + 1 / 6) / 2, (3 / 4 + 3 / 8) / 2, (5 / 6 + 5 / 8) / 2], rtol=1e-5
    )


def test_a_wrapped_environment_ends_with_verdicts(server):
    env = gym.make("FlexT2I-v0", group_size=4, num_steps=2)
    env = rewards.UnifiedRewardThink(env, judge=server.url, tournament={"schedule": "regular(2)"})
    policy = flexgym.FlowPolicy.from_env(env, noise="flow", eta=0.7)
    obs, info = env.reset(seed=0)
    ended = False
    while not ended:
        obs, reward, terminated, truncated, info = env.step(policy(obs))
        ended = terminated or truncated
    env.close()
    assert reward == pytest.approx(0.5)
    assert len(info["assessments"]) == len(info["assessed_pairs"]) == 4
    brightness = info["samples"].mean(axis=(1, 2, 3))
    # JPEG moves the mean of an image by less than half a step.
    for (first, second), verdict in zip(info["assessed_pairs"], info["assessments"], strict=True):
        lead = brightness[first] - brightness[second]
        assert verdict.side == int(lead < 0) or abs(lead) < 1.0


def test_what_the_model_never_learned_to_say_is_counted(tmp_path):
    folder = save_tiny_qwen_vl(tmp_path / "tiny")
    reward = rewards.make("unified_reward_think", judge=folder, decoding={"max_tokens": 6})
    [scores] = reward.score([gray_group(40, 200, 120)])
    reward.close()
    assert np.isnan(scores.rewards).all()
    assert sum(scores.failures.values()) == 3
    assert set(scores.failures) <= {"truncated", "unparsable"}
    assert all(isinstance(outcome, JudgeFailure) for outcome in scores.assessments)


def test_too_many_failures_stop():
    with seeing_server(lambda means, text: "Image 1 is better") as server:
        reward = rewards.make("unified_reward_think", judge=server.url)
        with pytest.raises(
            JudgeFailureShareError, match="21 unparsable.*expected an <answer>, got 'Image 1 is better'"
        ):
            reward.score([gray_group(*range(7))])
        reward.close()


def test_settings_are_those_of_the_other_judges(tmp_path):
    path = tmp_path / "wording.txt"
    path.write_text("two images: {prompt}")
    with seeing_server(brighter, record=True) as server:
        settings = {"decoding": {"max_tokens": 7}, "inputs": {"format": "png"}, "prompt_template": path}
        reward = rewards.make("unified_reward_think", judge=[server.url], **settings)
        reward.score([gray_group(1, 2)])
        reward.close()
    [body] = server.bodies
    *_, text = body["messages"][0]["content"]
    assert (text["text"], body["max_tokens"]) == ('two images: "a grey wall"', 7)
    with pytest.raises(
        UnknownNameError, match="setting of unified_reward_think 'judge_template'. Did you mean 'prompt_template'"
    ):
        rewards.make("unified_reward_think", judge_template=path)
