"""Training small enough for a test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from flexgym.agents.base import AgentComponents
from flexgym.algorithm.base import algorithm_class
from flexgym.config import AgentSettings
from flexgym.config.load import load_settings
from flexgym.core.errors import RewardError
from flexgym.rewards.shapes_oracle import ShapesOracle
from flexgym.rllib.algorithm import FlowAlgorithm
from flexgym.rllib.build import algorithm_config
from flexgym.rllib.config import FlowConfig
from flexgym.rllib.sharded import METRICS

SMALL = {
    "generator": {"mode": "full", "sampling": {"num_steps": 4}},
    "rollout": {"group_size": 3, "prompts_per_iteration": 2},
    "algorithm": {"name": "grpo", "window": {"size": 2, "strategy": "random", "first": [0, 1]}},
    "training": {"lr": 1e-3},
    "reward": {"name": "ShapesOracle", "settings": {"own_process": False}},  # whose start takes a second
}


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``base`` with changes at any depth; a window is replaced whole."""
    found = dict(base)
    for name, value in changes.items():
        nested = isinstance(value, Mapping) and isinstance(found.get(name), Mapping) and name != "window"
        found[name] = merged(found[name], value) if nested else value
    return found


def small_config(**sections: Any) -> FlowConfig:
    """A config of a few samples; sections as in a recipe."""
    return config_of(load_settings(AgentSettings, merged(SMALL, sections)))


def config_of(settings: AgentSettings, components: Any = None) -> FlowConfig:
    algorithm = algorithm_class(settings.algorithm.name)(settings.algorithm)
    return algorithm_config(settings, algorithm, components or AgentComponents())


def train(config: FlowConfig, iterations: int = 1) -> tuple[FlowAlgorithm, dict]:
    algorithm = config.build_algo()
    for _ in range(iterations):
        metrics = algorithm.train()[METRICS]
    return algorithm, metrics


def weights(algorithm: FlowAlgorithm) -> dict[str, torch.Tensor]:
    return algorithm.on_first_learner(lambda learner: learner.flow_module.get_state())


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@dataclass(frozen=True)
class Rewarding(AgentComponents):
    """Components whose rewards are all made by one class."""

    reward: Any = None

    def make_reward(self, name, settings):
        return self.reward()


def rewarded_by(reward: type, config: FlowConfig) -> FlowConfig:
    """The same config with another reward, which is no reward by name."""
    return config_of(config.settings, Rewarding(reward=reward))


class OutOfOrder(ShapesOracle):
    """A reward that raises on the second of several learners."""

    def score(self, groups):
        if torch.distributed.get_rank() == 1:
            raise RewardError("out of order")
        return super().score(groups)
