"""RLlib's config from FlexGym's settings."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from flexgym.algorithm.base import Algorithm, check_needs
from flexgym.config import AgentSettings
from flexgym.rllib.algorithm import FlowAlgorithm
from flexgym.rllib.config import Components, FlowConfig
from flexgym.rllib.learner import FlowLearner
from flexgym.rllib.learners import configure_learners
from flexgym.rllib.runner import GroupEnvRunner


def algorithm_config(settings: AgentSettings, algorithm: Algorithm[Any], components: Components) -> FlowConfig:
    """Generate RLlib's config of a run; ``build_algo()`` on it starts learners and runners.

    Args:
        settings: of the run.
        algorithm: that trains, made from ``settings.algorithm``.
        components: makes rewards, prompts and environments.
    """
    config = FlowConfig(FlowAlgorithm)
    config.api_stack(enable_rl_module_and_learner=True, enable_env_runner_and_connector_v2=True)
    config.settings, config.algorithm, config.components = settings, algorithm, components
    check_needs(algorithm, config.weight_copies)
    resources, options = settings.resources, settings.rllib
    config.environment(env=settings.environment.env, disable_env_checking=True)
    config.env_runners(
        env_runner_cls=GroupEnvRunner,
        create_local_env_runner=False,
        num_env_runners=resources.num_env_runners,
        num_gpus_per_env_runner=resources.num_gpus_per_env_runner,
        num_cpus_per_env_runner=resources.num_cpus_per_env_runner,
        custom_resources_per_env_runner=dict(options.custom_resources_per_env_runner),
    )
    configure_learners(config, settings, learner_class=FlowLearner)
    config.fault_tolerance(
        restart_failed_env_runners=options.restart_failed_env_runners,
        max_num_env_runner_restarts=options.max_num_env_runner_restarts,
        env_runner_health_probe_timeout_s=options.env_runner_health_probe_timeout_s,
        env_runner_restore_timeout_s=options.env_runner_restore_timeout_s,
    )
    # Buffers never change, and an exchange of them would come before a learner may find that its reward has failed.
    config.framework(torch_ddp_kwargs={"broadcast_buffers": False, **options.torch_ddp_kwargs})
    # Spaces are the environment's own business here: module and learner never look at them.
    config.observation_space = config.action_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    return config
