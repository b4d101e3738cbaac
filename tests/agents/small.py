"""Pref-GRPO small enough for a test."""

from __future__ import annotations

import torch

from agents.pref_grpo import PrefGRPO, PrefGRPOConfig
from flexgym.core.errors import RewardError
from flexgym.rllib.sharded import METRICS
from rewards.shapes_oracle import ShapesOracle


def small_config(**training) -> PrefGRPOConfig:
    config = PrefGRPOConfig()
    config.generator(mode="full", settings={"num_steps": 4})
    config.rollout(group_size=3, prompts_per_iteration=2, window={"size": 2, "strategy": "random", "first": (0, 1)})
    config.training(**{"lr": 1e-3, **training})
    return config


def train(config: PrefGRPOConfig, iterations: int = 1) -> tuple[PrefGRPO, dict]:
    algorithm = config.build_algo()
    for _ in range(iterations):
        metrics = algorithm.train()[METRICS]
    return algorithm, metrics


def weights(algorithm: PrefGRPO) -> dict[str, torch.Tensor]:
    return algorithm.on_first_learner(lambda learner: learner.flow_module.get_state())


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


class OutOfOrder(ShapesOracle):
    """A reward that raises on the second of several learners."""

    def score(self, groups):
        if torch.distributed.get_rank() == 1:
            raise RewardError("out of order")
        return super().score(groups)


class OutOfOrderConfig(PrefGRPOConfig):
    def make_reward(self):
        return OutOfOrder()
