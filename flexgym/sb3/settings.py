"""Recipes of Stable-Baselines3: sections of FlexGym, and one for each algorithm with what its constructor takes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import stable_baselines3
from stable_baselines3.common.base_class import BaseAlgorithm

from flexgym.config.recipe import Recipe
from flexgym.core.errors import ConfigError, check_names, unknown_name
from flexgym.core.options import built_settings, check_count
from flexgym.runs.settings import RunSettings

ALGORITHMS: dict[str, type[BaseAlgorithm]] = {
    name: found
    for name, found in vars(stable_baselines3).items()
    if inspect.isclass(found) and issubclass(found, BaseAlgorithm)
}
"""The algorithms of Stable-Baselines3 by name."""
_GIVEN = ("self", "policy", "env", "seed", "tensorboard_log", "verbose", "_init_setup_model")
"""Arguments of their constructors that a run gives itself."""


@dataclass(frozen=True)
class EnvironmentSettings:
    """Section ``environment``.

    Attributes:
        env: id of a control environment.
        num_envs: how many run side by side.
        env_config: arguments of the environment, such as ``group_size``.
    """

    env: str = "FlexT2IControl-v0"
    num_envs: int = 8
    env_config: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_count("environment.num_envs", self.num_envs)


@dataclass(frozen=True)
class RewardSettings:
    """Section ``reward``.

    Attributes:
        name: of the reward that is optimised.
        settings: its arguments.
    """

    name: str = "ShapesVerifier"
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class VerificationSettings:
    """Section ``verification``.

    Attributes:
        reward: name of a pointwise reward that gives 1.0 to a sample without fault.
        prompts: held-out prompts; None draws some of the small world's.
        num_prompts: how many are used.
        interval: iterations between two verifications; 0 verifies only before and after.
        seed: of the prompts drawn, the first latents and the noise.
    """

    reward: str = "ShapesVerifier"
    prompts: Sequence[str] | None = None
    num_prompts: int = 400
    interval: int = 0
    seed: int = 7

    def __post_init__(self) -> None:
        check_count("verification.num_prompts", self.num_prompts)


@dataclass(frozen=True)
class TrainingSettings:
    """Section ``training``.

    Attributes:
        algorithm: of Stable-Baselines3, by name.
        policy: kind of policy; ``MultiInputPolicy`` reads a dict of arrays.
        steps_per_iteration: environment steps of an iteration, after which metrics are written.
        seed: of everything that training draws.
    """

    algorithm: str = "PPO"
    policy: str = "MultiInputPolicy"
    steps_per_iteration: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("training.steps_per_iteration", self.steps_per_iteration)
        if self.algorithm not in ALGORITHMS:
            raise unknown_name("algorithm of Stable-Baselines3", str(self.algorithm), ALGORITHMS)


@dataclass(frozen=True)
class SB3Settings:
    """A whole recipe.

    Attributes:
        run: where the run writes and when it ends.
        environment: what is acted in.
        reward: what is optimised.
        verification: how progress is judged.
        training: what learns.
        algorithms: arguments of constructors by name of the algorithm; only those of the chosen one are used.
    """

    run: RunSettings = field(default_factory=RunSettings)
    environment: EnvironmentSettings = field(default_factory=EnvironmentSettings)
    reward: RewardSettings = field(default_factory=RewardSettings)
    verification: VerificationSettings = field(default_factory=VerificationSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    algorithms: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @classmethod
    def parse(cls, recipe: Recipe) -> SB3Settings:
        """Check a recipe.

        Raises:
            UnknownNameError: for an unknown section, key or algorithm, with the nearest valid one.
            ConfigError: for a value that cannot work.
        """
        check_names(f"section in {recipe.source}", recipe, [*_SECTIONS, *ALGORITHMS])
        sections: dict[str, Any] = {
            name: built_settings(f"section {name!r}", kind, recipe.get(name)) for name, kind in _SECTIONS.items()
        }
        algorithms = {name: dict(recipe[name] or {}) for name in recipe if name in ALGORITHMS}
        for name, arguments in algorithms.items():
            known = [argument for argument in _constructor(ALGORITHMS[name]) if argument not in _GIVEN]
            check_names(f"argument of {name}", arguments, known)
        return cls(**sections, algorithms=algorithms)

    def describe(self) -> dict[str, Any]:
        """The whole as plain values by section, from which `parse` makes the same again."""
        sections = {name: asdict(getattr(self, name)) for name in _SECTIONS}
        return {**sections, **{name: dict(arguments) for name, arguments in self.algorithms.items()}}

    def build(self, env: Any) -> BaseAlgorithm:
        """The chosen algorithm on an environment.

        Raises:
            ConfigError: when the algorithm refuses its arguments or the environment.
        """
        chosen = self.training
        arguments = self.algorithms.get(chosen.algorithm, {})
        try:
            return ALGORITHMS[chosen.algorithm](chosen.policy, env, seed=chosen.seed, **arguments)
        except (AssertionError, TypeError, ValueError) as error:
            raise ConfigError(f"section {chosen.algorithm!r}: {error}") from error


_SECTIONS: dict[str, Any] = {
    "run": RunSettings,
    "environment": EnvironmentSettings,
    "reward": RewardSettings,
    "verification": VerificationSettings,
    "training": TrainingSettings,
}


def _constructor(algorithm: type[BaseAlgorithm]) -> list[str]:
    return list(inspect.signature(algorithm.__init__).parameters)
