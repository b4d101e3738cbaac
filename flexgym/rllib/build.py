"""RLlib's config of a training, made from FlexGym's settings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from flexgym.algorithm import Algorithm
from flexgym.config import AgentSettings, JudgeTrainingSettings


@dataclass(frozen=True)
class Parts:
    """The classes that train.

    Attributes:
        algorithm: subclass of RLlib's `Algorithm`.
        learner: subclass of RLlib's `Learner`.
        module: spec of the RLModule.
        env_runner: subclass of RLlib's `EnvRunner`; None without env runners.
    """

    algorithm: type
    learner: type
    module: RLModuleSpec
    env_runner: type | None = None


class SettingsConfig(AlgorithmConfig):
    """Carries settings through RLlib to learners and env runners.

    Attributes:
        settings: the whole recipe.
        algorithm: the algorithm with its settings; None in judge training.
        parts: the classes that train.
    """

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.settings: Any = None
        self.algorithm: Algorithm[Any] | None = None
        self.parts: Parts | None = None

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Return the spec of `parts`."""
        assert self.parts is not None
        return self.parts.module

    def get_default_learner_class(self) -> type:
        """Return the learner of `parts`."""
        assert self.parts is not None
        return self.parts.learner


def agent_config(settings: AgentSettings, algorithm: Algorithm[Any], parts: Parts) -> SettingsConfig:
    """Return RLlib's config of an agent.

    Args:
        settings: the recipe, which is checked already.
        algorithm: made of ``settings.algorithm``.
        parts: the classes that train.
    """
    config = _config(settings, parts)
    config.algorithm = algorithm
    resources, options = settings.resources, settings.rllib
    config.environment(env=settings.environment.env, disable_env_checking=True)
    config.env_runners(
        env_runner_cls=parts.env_runner,
        create_local_env_runner=False,
        num_env_runners=resources.num_env_runners,
        num_gpus_per_env_runner=resources.num_gpus_per_env_runner,
        num_cpus_per_env_runner=resources.num_cpus_per_env_runner,
        custom_resources_per_env_runner=dict(options.custom_resources_per_env_runner),
    )
    config.fault_tolerance(
        restart_failed_env_runners=options.restart_failed_env_runners,
        max_num_env_runner_restarts=options.max_num_env_runner_restarts,
        env_runner_health_probe_timeout_s=options.env_runner_health_probe_timeout_s,
        env_runner_restore_timeout_s=options.env_runner_restore_timeout_s,
    )
    # Buffers never change, and an exchange of them would come before a learner may find that its reward has failed.
    config.framework(torch_ddp_kwargs={"broadcast_buffers": False, **options.torch_ddp_kwargs})
    # Spaces are the environment's own business: module and learner never look at them.
    config.observation_space = config.action_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    return config


def judge_config(settings: JudgeTrainingSettings, parts: Parts) -> SettingsConfig:
    """Return RLlib's config of judge training.

    Args:
        settings: the recipe, which is checked already.
        parts: the classes that train.
    """
    config = _config(settings, parts)
    config.framework(torch_ddp_kwargs=dict(settings.rllib.torch_ddp_kwargs))
    # Data comes from files, not from an environment; RLlib wants spaces all the same.
    config._is_online = False
    config.observation_space = config.action_space = gym.spaces.Discrete(1)
    return config


def _config(settings: AgentSettings | JudgeTrainingSettings, parts: Parts) -> SettingsConfig:
    """Return what the two have in common: learners, learning rate, clipping and seed."""
    config = SettingsConfig(algo_class=parts.algorithm)
    config.settings, config.parts = settings, parts
    resources, options, training = settings.resources, settings.rllib, settings.training
    config.learners(
        num_learners=resources.num_learners,
        num_gpus_per_learner=resources.num_gpus_per_learner,
        num_cpus_per_learner=resources.num_cpus_per_learner,
        custom_resources_per_learner=dict(options.custom_resources_per_learner),
    )
    rate = [list(point) for point in training.lr] if isinstance(training.lr, tuple) else training.lr
    config.training(lr=rate, grad_clip=training.grad_clip, grad_clip_by=options.grad_clip_by)
    config.debugging(seed=settings.run.seed)
    return config
