"""RLlib's config of a judge training from FlexGym's settings."""

from __future__ import annotations

import gymnasium as gym
import torch

from flexgym.config import JudgeTrainingSettings
from flexgym.core.errors import ConfigError
from flexgym.rllib.learners import configure_learners
from flexgym.rm.algorithm import JudgeAlgorithm
from flexgym.rm.config import JudgeConfig
from flexgym.rm.learner import JudgeLearner
from flexgym.rm.stage import S, Stage


def judge_config(settings: S, stage: Stage[S]) -> JudgeConfig:
    """Generate RLlib's config of a judge training; ``build_algo()`` on it starts the learners.

    Args:
        settings: settings of the run.
        stage: stage that trains, such as ``SFT()`` for `SFTSettings`.
    """
    config = JudgeConfig(JudgeAlgorithm)
    config.settings, config.stage = settings, stage
    configure_learners(config, settings, learner_class=JudgeLearner)
    config.framework(torch_ddp_kwargs=dict(settings.rllib.torch_ddp_kwargs))
    # Rows come from files. RLlib requires spaces all the same, which neither module nor learner reads.
    config._is_online = False
    config.observation_space = config.action_space = gym.spaces.Discrete(1)
    return config


def check_devices(settings: JudgeTrainingSettings) -> None:
    """Raise an error if a learner of this process needs a GPU that the machine does not have.

    Raises:
        ConfigError: there is no GPU.
    """
    resources = settings.resources
    if resources.num_gpus_per_learner and not resources.num_learners and not torch.cuda.is_available():
        raise ConfigError(
            f"resources.num_gpus_per_learner={resources.num_gpus_per_learner:g}, and this machine has no GPU: set it to"
            " 0 to train on the CPU, or set resources.num_learners to train on the GPUs of a cluster"
        )
