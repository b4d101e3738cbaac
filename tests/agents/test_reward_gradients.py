"""Training on reward gradients: from a rollout to the weights, for one learner, several, and separate env runners."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from flexgym import FlowPolicy, rewards
from flexgym.agents.base import load_agent_settings
from flexgym.algorithm.base import algorithm_class
from flexgym.algorithm.effects import effect_notes
from flexgym.algorithm.replay import replay
from flexgym.algorithm.reward_steps import with_reward_gradient
from flexgym.algorithm.rollout import collect
from flexgym.config.recipe import Recipe
from flexgym.core.errors import ConfigError
from tests.agents.small import METRICS, config_of, largest_difference, small_config, train, weights

NAMES = ("refl", "draft_lv", "drtune", "flow_bp")
REWARD = {"name": "ShapesMatch"}


def config(name, *, reward=REWARD, **sections):
    return small_config(algorithm={"name": name, "chunk": 4}, reward=reward, **sections)


def recipe(**sections):
    return Recipe.of({"algorithm": {"name": "refl"}, "reward": REWARD, **sections})


def test_an_iteration_moves_the_policy_and_reports_the_reward():
    algorithm, metrics = train(config("draft_lv", reward={**REWARD, "monitors": ["ShapesVerifier"]}))
    algorithm.stop()
    assert metrics["policy/gradient_norm"] > 0.0
    assert metrics["policy/reward_gradient"] > 0.0
    assert 0.0 < metrics["reward/mean"] == metrics["reward/shapes_match"] < 1.0
    assert 0.0 < metrics["monitor/ShapesVerifier"] <= 1.0
    assert metrics["policy/satisfied"] == 0.0


def test_a_reward_without_gradients_is_refused_before_anything_loads():
    assert load_agent_settings(recipe()).reward.name == "ShapesMatch"
    with pytest.raises(ConfigError) as refused:
        load_agent_settings(recipe(reward={"name": "ShapesOracle"}))
    assert "reward.name: algorithm refl: ShapesOracle: expected a reward with gradients" in str(refused.value)
    assert "CLIPScore" in str(refused.value)


def test_a_runner_refuses_what_no_recipe_was_checked_for():
    with pytest.raises(ConfigError, match="shapes_oracle: expected a reward with gradients"):
        train(small_config(algorithm={"name": "refl"}))


@pytest.mark.parametrize("name", ["num_updates", "passes"])
def test_gradients_hold_for_one_optimizer_step(name):
    with pytest.raises(ConfigError, match=rf"training.{name}: expected 1 with ReFL.*prompts_per_iteration"):
        load_agent_settings(recipe(training={name: 2}))


def test_a_window_has_no_effect():
    given = algorithm_class("refl").from_settings(window={"size": 2})
    (note,) = effect_notes(given, config_of(load_agent_settings(recipe())).settings.training)
    assert note == "without effect: algorithm.window. ReFL chooses its own steps."
    assert not effect_notes(algorithm_class("refl").from_settings(), load_agent_settings(recipe()).training)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("name", NAMES)
def test_training_resumes_exactly(name, mode, cluster, tmp_path: Path):
    chosen = config(name, generator={"mode": mode}, training={"ema_decay": 0.9})
    algorithm, _ = train(chosen, 2)
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    expected_metrics, expected = algorithm.train()[METRICS], weights(algorithm)
    algorithm.stop()
    resumed = chosen.copy(copy_frozen=False).build_algo()
    resumed.restore_from_path(str(tmp_path / "checkpoint"))
    metrics = resumed.train()[METRICS]
    assert largest_difference(weights(resumed), expected) == 0.0
    assert metrics["policy/reward_gradient"] == expected_metrics["policy/reward_gradient"]
    resumed.stop()


@pytest.mark.slow
def test_it_is_the_same_training_wherever_gradients_are_computed(learner_pairs):
    found, reported = [], []
    for resources, sharding in (({}, "none"), ({"num_learners": 2}, "none"), ({"num_learners": 2}, "fsdp")):
        algorithm, metrics = train(
            config("drtune", training={"lr": 3e-4}, generator={"sharding": sharding}, resources=resources)
        )
        reported.append([metrics["policy/reward_gradient"], metrics["policy/gradient_norm"]])
        if sharding == "none":
            found.append(weights(algorithm))
        algorithm.stop()
    assert largest_difference(*found) < 1e-6
    assert reported[1] == pytest.approx(reported[0], rel=1e-4)
    assert reported[2] == pytest.approx(reported[0], rel=1e-4)


@pytest.mark.slow
def test_a_separate_runner_computes_the_same_gradients(cluster):
    found = []
    for num_env_runners in (0, 2):
        algorithm, _ = train(config("draft_lv", resources={"num_env_runners": num_env_runners}))
        found.append(weights(algorithm))
        algorithm.stop()
    assert largest_difference(*found) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_reward_rises_on_the_same_samples(name):
    algorithm = algorithm_class(name).from_settings(chunk=16)
    envs = gym.make_vec("FlexT2I-v0", num_envs=4, group_size=4, tensors=True, autoreset_mode="Disabled")
    generator, reward = envs.unwrapped.generator, rewards.make("ShapesMatch")
    generator.weights.train_full()
    optimizer = torch.optim.AdamW(generator.weights.trained().values(), lr=5e-5, weight_decay=0.0)
    policy = FlowPolicy(generator, algorithm.process, groups_per_forward=4)
    schedule, curve = algorithm.windows(policy.num_steps), []
    for iteration in range(8):
        window = schedule.at(iteration, seed=0)
        rollout = collect(envs, policy, window, seeds=range(4), keep=algorithm.requires)
        curve.append(np.mean([group.rewards for group in reward.score(rollout.groups)]))
        rollout, _ = with_reward_gradient(policy, reward, rollout)
        for index in range(len(window)):
            replayed = replay(policy, rollout, [index], advantages=torch.zeros(4, 4), needs=algorithm.requires)
            (algorithm.objective(replayed).per_sample.mean() / len(window)).backward()
        optimizer.step()
        optimizer.zero_grad()
    envs.close()
    assert np.mean(curve[-2:]) > curve[0] + 0.01
