"""The settings of an agent: everything that a training run of a generator needs to know."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field, SerializeAsAny

from flexgym.algorithm_settings import AlgorithmSettings
from flexgym.config.generator import GeneratorSettings
from flexgym.config.sections import (
    EnvironmentSettings,
    ResourceSettings,
    RewardSettings,
    RLlibSettings,
    RunSettings,
    VerificationSettings,
)
from flexgym.config.training import RolloutSettings, TrainingSettings
from flexgym.core.settings import Settings

if TYPE_CHECKING:
    from flexgym.flow import WindowSchedule


class AgentSettings(Settings):
    """A recipe of an agent, section by section."""

    run: RunSettings = RunSettings()
    environment: EnvironmentSettings = EnvironmentSettings()
    generator: GeneratorSettings = GeneratorSettings()
    rollout: RolloutSettings = RolloutSettings()
    algorithm: SerializeAsAny[AlgorithmSettings] = Field(description="the algorithm and its own settings")
    training: TrainingSettings = TrainingSettings()
    reward: RewardSettings = Field(description="the reward that is optimized, and those that are only logged")
    verification: VerificationSettings = VerificationSettings()
    resources: ResourceSettings = ResourceSettings()
    rllib: RLlibSettings = RLlibSettings()

    @property
    def is_online(self) -> bool:
        """Return whether separate env runners sample; else the learners do."""
        return self.resources.num_env_runners > 0

    @property
    def num_shards(self) -> int:
        """Return the number of learners that share the groups of an iteration."""
        return max(1, self.resources.num_learners)

    @property
    def shards(self) -> bool:
        """Return whether the transformer is sharded over the learners."""
        return self.generator.shards

    @property
    def is_half(self) -> bool:
        """Return whether weights are float16, whose small range needs a scaled loss."""
        return self.generator.is_half

    def windows(self, num_steps: int) -> WindowSchedule:
        """Return the trained window of every iteration, see `WindowSettings.schedule`."""
        return self.algorithm.window.schedule(num_steps)

    def group_seeds(self, iteration: int) -> list[int]:
        """Return one seed for each group of an iteration, the same for any number of learners or runners.

        Everything random in a rollout follows from these, so that a resumed run continues bit for bit.
        """
        sequence = np.random.SeedSequence([self.run.seed, iteration])
        return [int(seed) for seed in sequence.generate_state(self.rollout.prompts_per_iteration)]
