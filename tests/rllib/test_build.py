from __future__ import annotations

import pickle

from flexgym.agents.base import AgentComponents
from flexgym.agents.grpo import GRPO
from flexgym.config import AgentSettings
from flexgym.config.load import load_settings
from flexgym.config.recipe import apply_overrides
from flexgym.rllib.build import algorithm_config

RECIPE = {"algorithm": {"name": "grpo"}, "reward": {"name": "ShapesOracle"}}


def config_of(*overrides):
    settings = load_settings(AgentSettings, apply_overrides(RECIPE, overrides))
    return algorithm_config(settings, GRPO(settings.algorithm), AgentComponents())


def test_an_agent_by_default_trains_and_samples_in_one_process():
    config = config_of()
    config.validate()
    assert (config.num_learners, config.num_env_runners, config.create_local_env_runner) == (0, 0, False)
    assert (config.lr, config.grad_clip, config.grad_clip_by, config.seed) == (3e-4, 1.0, "global_norm", 0)
    assert config.torch_ddp_kwargs == {"broadcast_buffers": False}
    assert (config.env, config.modality) == ("FlexT2I-v0", "image")


def test_settings_reach_rllib_and_the_processes_it_starts():
    config = config_of(
        "training.lr=[[0, 1e-3], [100, 1e-4]]",
        "resources.num_learners=2",
        "resources.num_gpus_per_learner=0.5",
        "resources.num_env_runners=4",
        "resources.num_cpus_per_env_runner=2",
        "rllib.grad_clip_by=norm",
        "rllib.torch_ddp_kwargs={bucket_cap_mb: 8}",
        "rllib.restart_failed_env_runners=false",
        "run.seed=7",
        "environment.env=FlexT2V-v0",
    )
    config.validate()
    assert config.lr == [[0, 1e-3], [100, 1e-4]]
    assert (config.num_learners, config.num_gpus_per_learner) == (2, 0.5)
    assert (config.num_env_runners, config.num_cpus_per_env_runner, config.seed) == (4, 2, 7)
    assert config.torch_ddp_kwargs == {"broadcast_buffers": False, "bucket_cap_mb": 8}
    assert (config.grad_clip_by, config.restart_failed_env_runners) == ("norm", False)
    assert (config.env, config.modality) == ("FlexT2V-v0", "video")
    copied = pickle.loads(pickle.dumps(config.copy(copy_frozen=True)))
    assert copied.settings == config.settings
    assert copied.algorithm.settings == config.settings.algorithm
