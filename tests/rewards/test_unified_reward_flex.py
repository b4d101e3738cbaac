from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

import flexgym
from flexgym import rewards
from flexgym.core.errors import CheckpointError, ConfigError, UnknownNameError
from flexgym.judge import Assessment
from flexgym.types import Prompt, SampleGroup
from tests.judge.backends.scripted_server import Script, ScriptedServer


def group(size=3, caption="a {red} circle", seed=0):
    samples = np.random.default_rng(seed).integers(0, 255, (size, 32, 32, 3), dtype=np.uint8)
    return SampleGroup(Prompt(caption), samples)


def test_a_server_judges_all_pairs_of_all_groups():
    with ScriptedServer(Script()) as server:
        reward = rewards.make("UnifiedRewardFlex", judge=server.url)
        scores = reward.score([group(3), group(4, seed=1)])
        metrics = reward.metrics()
        reward.close()
    assert [len(each.assessments) for each in scores] == [3, 6]
    assert [each.rewards.shape for each in scores] == [(3,), (4,)]
    assert metrics["requests"] == 9
    assert metrics["completion_tokens"] > 0


def test_settings_of_the_tournament_and_a_template_of_ones_own(tmp_path):
    path = tmp_path / "template.txt"
    path.write_text("Which is better for {prompt}?")
    with ScriptedServer(Script()) as server:
        reward = rewards.make(
            "UnifiedRewardFlex",
            judge=[server.url],
            prompt_template=path,
            decoding={"max_tokens": 64},
            inputs={"format": "png"},
            tournament={"schedule": "regular(2)", "alpha": 0.5},
        )
        [scores] = reward.score([group(6)])
        reward.close()
    assert len(scores.assessments) == 6
    assert scores.weights == {"dim": 0.5, "overall": 0.5}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["FlexT2I-v0", "FlexT2V-v0"])
def test_the_embedded_judge_is_the_default(name):
    env = rewards.UnifiedRewardFlex(gym.make(name, group_size=3), tournament={"schedule": "regular(2)"})
    policy = flexgym.FlowPolicy.from_env(env, noise="cps", eta=0.8)
    observation, info = env.reset(seed=3)
    ended = False
    while not ended:
        observation, _, ended, _, info = env.step(policy(observation))
    assert np.isfinite(info["group_rewards"]).all()
    said = info["assessments"]
    assert len(said) == 3
    assert all(isinstance(each, Assessment) for each in said)
    env.close()


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"judge": ""}, ConfigError, "flexgym judge serve"),
        (
            {"judge": "http://localhost:1", "decoding": {"max_token": 3}},
            UnknownNameError,
            "decoding 'max_token'.*'max_tokens'",
        ),
        (
            {"judge": "http://localhost:1", "inputs": {"num_frame": 3}},
            UnknownNameError,
            "inputs 'num_frame'.*'num_frames'",
        ),
        ({"judge": "http://localhost:1", "decodin": {}}, UnknownNameError, "unified_reward_flex 'decodin'.*'decoding'"),
        ({"judge": "http://localhost:1", "turnament": {}}, UnknownNameError, "'tournament'"),
        ({"judge": "nowhere/at-all", "tournament": {"alpha": 2}}, ConfigError, "alpha"),
        (
            {"judge": "http://localhost:1", "decoding": [1]},
            ConfigError,
            "decoding of unified_reward_flex: expected mapping",
        ),
        (
            {"judge": "http://localhost:1", "inputs": {"num_frames": "8"}},
            ConfigError,
            "num_frames of inputs: expected whole number",
        ),
        ({"judge": "http://localhost:1", "prompt_template": "nowhere.txt"}, ConfigError, "nowhere.txt"),
        ({"judge": "nowhere/at-all"}, CheckpointError, "nowhere"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_built(settings, error, message):
    with pytest.raises(error, match=message):
        rewards.make("UnifiedRewardFlex", **settings)
