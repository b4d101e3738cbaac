from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import flexgym
from flexgym import rewards
from flexgym.core.errors import CheckpointError, ConfigError, JudgeFailureShareError, UnknownNameError
from tests.judge.backends.tiny_qwen_vl import save_tiny_qwen_vl
from tests.rewards.seeing_server import gray_group, seeing_server


def axes(means, text):
    """Alignment is the brightness, 1 for 0 and 5 for 240; coherence and physics are 2, style is 4; bright ones fail."""
    if means.mean() > 250:
        return "Alignment Score (1-5): X"
    if means.mean() > 245:
        return "I'm sorry, I can't look at this."
    second = "Physics" if "one video" in text else "Coherence"
    return f"Alignment Score (1-5): {1 + means.mean() / 60:.4f}\n{second} Score (1-5): 2\nStyle Score (1-5): 4"


@pytest.fixture
def server():
    with seeing_server(axes, record=True) as running:
        yield running


def test_axes_of_images_by_hand(server):
    reward = rewards.make("UnifiedReward", judge=server.url)
    first, second = reward.score([gray_group(0, 120, 255), gray_group(180, 248)])
    metrics = reward.metrics()
    reward.close()
    np.testing.assert_allclose(first.terms["alignment"], [0.2, 0.6, np.nan], rtol=1e-5)
    np.testing.assert_allclose(first.terms["coherence"], [0.4, 0.4, np.nan], rtol=1e-6)
    np.testing.assert_allclose(first.terms["style"], [0.8, 0.8, np.nan], rtol=1e-6)
    np.testing.assert_allclose(first.rewards, [1.4 / 3, 0.6, np.nan], rtol=1e-5)
    np.testing.assert_allclose(second.rewards, [2 / 3, np.nan], rtol=1e-5)
    assert first.weights == dict.fromkeys(("alignment", "coherence", "style"), pytest.approx(1 / 3))
    assert (first.failures, second.failures) == ({"echoed_template": 1}, {"refused": 1})
    assert first.rewards.dtype == first.terms["style"].dtype == np.float32
    assert first.mean == pytest.approx(1.6 / 3)
    assert (first.assessments, first.pairs) == ((), None)
    assert metrics["requests"] == len(server.bodies) == 5


def test_axes_of_videos(server):
    reward = rewards.make("unified_reward", judge=server.url, weights={"physics": 1, "style": 3})
    [scores] = reward.score([gray_group(120, 0, frames=12)])
    reward.close()
    assert scores.weights == {"alignment": 0.0, "physics": 0.25, "style": 0.75}
    np.testing.assert_allclose(scores.rewards, [0.7, 0.7], rtol=1e-6)
    np.testing.assert_allclose(scores.terms["alignment"], [0.6, 0.2], rtol=1e-5)
    assert len(server.bodies[0]["messages"][0]["content"]) == 8 + 1


def test_weights_of_the_authors(server):
    reward = rewards.make("unified_reward", judge=server.url, weights={"alignment": 1.4, "style": 0.7})
    [scores] = reward.score([gray_group(120, 60)])
    assert scores.weights == {"alignment": pytest.approx(2 / 3), "coherence": 0.0, "style": pytest.approx(1 / 3)}
    np.testing.assert_allclose(scores.rewards, [(2 * 0.6 + 0.8) / 3, (2 * 0.4 + 0.8) / 3], rtol=1e-5)
    [unscored] = reward.score([gray_group(255)])  # a missing axis fails the sample even if it was dropped
    assert np.isnan(unscored.rewards).all()
    reward.close()


@pytest.mark.parametrize(("frames", "reply", "reward"), [(None, "3.5", 0.7), (4, "6", 0.6)])
def test_final_scores_over_their_highest(frames, reply, reward):
    with seeing_server(lambda means, text: f"wall (object): 1\nFinal Score: {reply}", record=True) as server:
        scorer = rewards.make("unified_reward", judge=server.url, form="final_score")
        [scores] = scorer.score([gray_group(1, 2, frames=frames)])
        scorer.close()
    np.testing.assert_allclose(scores.rewards, [reward, reward], rtol=1e-6)
    assert (list(scores.terms), scores.weights) == (["final_score"], {"final_score": 1.0})
    assert "Final Score: X" in server.bodies[0]["messages"][0]["content"][-1]["text"]


@pytest.mark.parametrize("name", ["FlexT2I-v0", "FlexT2V-v0"])
def test_wrapped_environments(server, name):
    envs = gym.make_vec(name, num_envs=2, group_size=2, num_steps=2)
    envs = rewards.vector.UnifiedReward(envs, judge=server.url, weights={"alignment": 1})
    policy = flexgym.FlowPolicy.from_env(envs, noise="flow", eta=0.7)
    obs, infos = envs.reset(seed=0)
    ended = np.zeros(2, dtype=bool)
    while not ended.any():
        obs, reward, terminated, truncated, infos = envs.step(policy(obs))
        ended = terminated | truncated
    envs.close()
    infos = infos.get("final_info", infos)
    axes_of_samples = tuple(range(2, infos["samples"].ndim))
    expected = (1 + infos["samples"].mean(axis=axes_of_samples) / 60) / 5
    # JPEG, and for videos 8 of the frames
    np.testing.assert_allclose(infos["group_rewards"], expected, atol=0.02)
    np.testing.assert_allclose(reward, infos["group_rewards"].mean(axis=1), rtol=1e-6)
    assert {"alignment", "style"} < set(infos["reward_terms"])


@pytest.mark.parametrize("form", ["axes", "final_score"])
@pytest.mark.parametrize("frames", [None, 4])
def test_what_the_model_never_learned_to_say_is_counted(tmp_path, form, frames):
    folder = save_tiny_qwen_vl(tmp_path / "tiny")
    reward = rewards.make("unified_reward", judge=folder, form=form, decoding={"max_tokens": 6})
    [scores] = reward.score([gray_group(40, 200, 120, frames=frames)])
    reward.close()
    assert np.isnan([scores.rewards, *scores.terms.values()]).all()
    assert scores.failures == {"truncated": 3}
    assert np.isnan(scores.mean)


def test_too_many_failures_stop_with_counts_and_an_example(server):
    groups = [gray_group(*[255] * 9), gray_group(*[100] * 7)]
    strict = rewards.make("unified_reward", judge=server.url)
    with pytest.raises(JudgeFailureShareError, match="9 of 16 judgments failed.*9 echoed_template.*Alignment Score"):
        strict.score(groups)
    [scores] = strict.score(groups[:1])  # nine are too few to be a share
    assert scores.failures == {"echoed_template": 9}
    strict.close()
    lenient = rewards.make("unified_reward", judge=server.url, max_failure_share=9 / 16)
    assert [sum(each.failures.values()) for each in lenient.score(groups)] == [9, 0]
    lenient.close()


def test_no_groups(server):
    reward = rewards.make("unified_reward", judge=server.url)
    assert reward.score([]) == []
    reward.close()


def test_a_weight_for_an_axis_of_the_other_kind(server):
    reward = rewards.make("unified_reward", judge=server.url, weights={"alignment": 1, "physics": 1})
    with pytest.raises(UnknownNameError, match="axis of images 'physics'. Known: alignment, coherence, style"):
        reward.score([gray_group(1, 2)])
    reward.close()


URL = "http://localhost:1"


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, ConfigError, "flexgym judge serve"),
        ({"judge": "nowhere/at-all"}, CheckpointError, "nowhere"),
        ({"judge": URL, "form": "axis"}, UnknownNameError, "Did you mean 'axes'"),
        ({"judge": URL, "weights": {"stile": 1}}, UnknownNameError, "axis 'stile'. Did you mean 'style'"),
        (
            {"judge": URL, "weights": {"final_score": 1}},
            UnknownNameError,
            "Known: alignment, coherence, physics, style",
        ),
        ({"judge": URL, "form": "final_score", "weights": {"style": 1}}, UnknownNameError, "Known: final_score"),
        ({"judge": URL, "weights": {"style": -1, "alignment": 2}}, ConfigError, "at least 0, not all 0"),
        ({"judge": URL, "weights": {"style": 0}}, ConfigError, "at least 0, not all 0"),
        ({"judge": URL, "weights": {"style": float("nan")}}, ConfigError, "at least 0, not all 0"),
        ({"judge": URL, "weights": {"style": float("inf")}}, ConfigError, "at least 0, not all 0"),
        ({"judge": URL, "weights": {"style": "1"}}, ConfigError, r"\['style'\]: expected number, got '1'"),
        ({"judge": URL, "weights": {}}, ConfigError, "at least 0, not all 0"),
        ({"judge": URL, "weights": ["style"]}, ConfigError, "weights of unified_reward: expected mapping"),
        (
            {"judge": URL, "max_failure_share": 1.5},
            ConfigError,
            "max_failure_share of unified_reward: expected 0.0 to 1.0",
        ),
        (
            {"judge": URL, "wieghts": {}},
            UnknownNameError,
            "setting of unified_reward 'wieghts'. Did you mean 'weights'",
        ),
        ({"judge": URL, "decoding": {"temprature": 1}}, UnknownNameError, "setting of decoding.*'temperature'"),
        ({"judge": URL, "tournament": {}}, UnknownNameError, "setting of unified_reward 'tournament'"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_built(settings, error, message):
    with pytest.raises(error, match=message):
        rewards.make("unified_reward", **settings)
