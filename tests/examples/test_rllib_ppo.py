"""RLlib's own PPO on a control environment: nothing of FlexGym's learners takes part."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.connectors.env_to_module import FlattenObservations
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.tune import register_env

import flexgym  # noqa: F401
from flexgym import rewards


def make_config():
    register_env("control", lambda config: rewards.ShapesVerifier(gym.make("FlexT2IControl-v0", **config)))
    return (
        PPOConfig()
        .environment("control", env_config={"group_size": 1, "num_steps": 2})
        .env_runners(
            num_env_runners=0,
            num_envs_per_env_runner=4,
            env_to_module_connector=lambda env, spaces, device: FlattenObservations(),
        )
        .training(train_batch_size_per_learner=32, minibatch_size=16, num_epochs=2, lr=1e-3)
        .evaluation(evaluation_interval=1, evaluation_duration=4, evaluation_config={"explore": False})
        .debugging(seed=0)
    )


def weights(algorithm):
    state = algorithm.get_module().get_state()
    return {name: torch.as_tensor(np.array(value)) for name, value in state.items()}


@pytest.mark.slow
def test_rllibs_own_ppo_trains_on_the_environment(cluster):
    algorithm = make_config().build_algo()
    try:
        before = weights(algorithm)
        results = [algorithm.train() for _ in range(2)]
        after = weights(algorithm)
    finally:
        algorithm.stop()
    for result in results:
        learner = result["learners"][DEFAULT_MODULE_ID]
        assert all(np.isfinite(learner[name]) for name in ("total_loss", "policy_loss", "vf_loss"))
        assert result["env_runners"]["episode_len_mean"] == 1.0
        assert 0.0 <= result["env_runners"]["episode_return_mean"] <= 1.0
        assert 0.0 <= result["evaluation"]["env_runners"]["episode_return_mean"] <= 1.0
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
