"""RLlib's config of a judge training, generated from FlexGym's settings."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec

from flexgym.config import JudgeTrainingSettings
from flexgym.rm.module import JudgeModule
from flexgym.rm.stage import Stage


class JudgeConfig(AlgorithmConfig):
    """RLlib's config of a judge training, made by `flexgym.rm.build.judge_config`.

    Attributes:
        settings: settings of the run.
        stage: stage that trains.
    """

    settings: JudgeTrainingSettings
    stage: Stage[Any]

    @property
    def shards(self) -> bool:
        """Return True if the model is sharded over the learners."""
        return self.settings.judge.shards

    @property
    def betas(self) -> tuple[float, float]:
        """Return the betas of AdamW."""
        return self.settings.training.betas

    @property
    def weight_decay(self) -> float:
        """Return the weight decay of AdamW."""
        return self.settings.training.weight_decay

    def get_default_rl_module_spec(self) -> RLModuleSpec:
        """Return the spec of the judge's module."""
        return RLModuleSpec(module_class=JudgeModule, model_config={"judge": self.settings.judge})
