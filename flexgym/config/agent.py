"""The settings of an agent: everything that a training run of a generator needs to know."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import Field, SerializeAsAny, create_model, model_validator

from flexgym.algorithm_settings import AlgorithmSettings
from flexgym.config.agent_checks import agent_problems, known_num_steps
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
from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.core.problems import Problem, blamed, got, names_below, raise_problems
from flexgym.core.settings import Settings

if TYPE_CHECKING:
    from flexgym.flow import WindowSchedule


class AgentSettings(Settings):
    """A recipe of an agent, section by section."""

    run: RunSettings = RunSettings()
    environment: EnvironmentSettings = EnvironmentSettings()
    generator: GeneratorSettings = GeneratorSettings()
    rollout: RolloutSettings = RolloutSettings()
    algorithm: SerializeAsAny[AlgorithmSettings] = Field(description="The algorithm and its own settings.")
    training: TrainingSettings = TrainingSettings()
    reward: RewardSettings = Field(description="The reward that is optimized, and those that are only logged.")
    verification: VerificationSettings = VerificationSettings()
    resources: ResourceSettings = ResourceSettings()
    rllib: RLlibSettings = RLlibSettings()

    @model_validator(mode="after")
    def _check(self) -> Self:
        raise_problems(agent_problems(self))
        return self

    @classmethod
    def check(cls, values: Mapping[str, Any]) -> tuple[Self | None, list[Problem]]:
        """Validate sections by name without raising; section ``algorithm`` against the settings of its algorithm.

        Args:
            values: plain values, as from YAML.

        Returns:
            The settings, None where any is wrong, and what is wrong.
        """
        try:
            algorithm = _named_algorithm(values)
        except ConfigError as error:
            # The other sections are checked all the same.
            _, problems = super().check({**values, "algorithm": AlgorithmSettings()})
            unknown = isinstance(error, UnknownNameError)
            return None, [Problem(("algorithm", "name"), str(error), unknown=unknown), *problems]
        found, problems = super(AgentSettings, cls.with_algorithm(algorithm.Settings)).check(values)
        if found is None:
            return None, problems
        try:
            algorithm(found.algorithm).check(known_num_steps(found.generator))
        except ConfigError as error:
            return None, [Problem(("algorithm", *blamed(dict(found.algorithm), str(error))), str(error))]
        return cls.model_construct(found.model_fields_set, **dict(found)), []

    @classmethod
    def names(cls, values: Mapping[str, Any]) -> list[str]:
        """Return the dotted names of all settings, with those of the algorithm that ``values`` name."""
        try:
            return names_below(cls.with_algorithm(_named_algorithm(values).Settings))
        except ConfigError:
            return names_below(cls)

    @classmethod
    @cache
    def with_algorithm(cls, algorithm: type[AlgorithmSettings]) -> type[Self]:
        """Return the model whose section ``algorithm`` has the fields of one algorithm, for validation and schemas."""
        fields: dict[str, Any] = {"algorithm": (algorithm, cls.model_fields["algorithm"])}
        return create_model(cls.__name__, __base__=cls, __module__=cls.__module__, **fields)

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


def _named_algorithm(values: Mapping[str, Any]) -> Any:
    """Return the class of the algorithm that section ``algorithm`` names."""
    from flexgym.algorithm import algorithm_class

    section = values.get("algorithm")
    name = section.get("name") if isinstance(section, Mapping) else None
    if not (isinstance(name, str) and name):
        raise ConfigError(f"expected the name of an algorithm, such as grpo, got {got(name)}")
    return algorithm_class(name)
