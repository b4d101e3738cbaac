"""The part of RLlib's config that the learners of agents and judges share."""

from __future__ import annotations

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.learner.learner import Learner

from flexgym.config import AgentSettings, JudgeTrainingSettings


def configure_learners(
    config: AlgorithmConfig, settings: AgentSettings | JudgeTrainingSettings, *, learner_class: type[Learner]
) -> None:
    """Set the learners, their devices, the learning rate, gradient clipping and the seed of a config.

    Args:
        config: config to change.
        settings: settings of the run.
        learner_class: class of the learners.
    """
    resources, training, options = settings.resources, settings.training, settings.rllib
    config.learners(
        num_learners=resources.num_learners,
        num_gpus_per_learner=resources.num_gpus_per_learner,
        num_cpus_per_learner=resources.num_cpus_per_learner,
        custom_resources_per_learner=dict(options.custom_resources_per_learner),
        learner_class=learner_class,
    )
    rate = training.lr if isinstance(training.lr, int | float) else [list(point) for point in training.lr]
    config.training(lr=rate, grad_clip=training.grad_clip, grad_clip_by=options.grad_clip_by)
    config.debugging(seed=settings.run.seed, log_level="ERROR")  # RLlib has notes on its own history
