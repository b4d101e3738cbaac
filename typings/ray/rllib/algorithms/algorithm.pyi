from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.learner.learner_group import LearnerGroup
from ray.rllib.env.env_runner_group import EnvRunnerGroup
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

class Algorithm(Checkpointable):
    config: AlgorithmConfig
    env_runner_group: EnvRunnerGroup  # None where learners sample
    learner_group: LearnerGroup
    metrics: MetricsLogger
    @property
    def iteration(self) -> int: ...
    @classmethod
    def get_default_config(cls) -> AlgorithmConfig: ...
    def setup(self, config: Any) -> None: ...
    def training_step(self) -> None: ...
    def train(self) -> dict[str, Any]: ...
    def stop(self) -> None: ...
