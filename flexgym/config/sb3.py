"""The settings of Stable-Baselines3 on the control environments."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self, get_args

from pydantic import Field, model_validator

from flexgym.config.sections import AUDIT, SPLIT, EnvironmentSettings, Prompts, RunSettings, Split
from flexgym.core.arguments import fitted_arguments, setting_parameters
from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.core.problems import Problem, blamed, raise_problems
from flexgym.core.seeds import Seed
from flexgym.core.settings import Settings

AlgorithmName = Literal["A2C", "DDPG", "DQN", "PPO", "SAC", "TD3"]
_GIVEN = frozenset({"policy", "env", "seed", "tensorboard_log", "verbose", "_init_setup_model"})
"""Arguments of the constructors that follow from the other sections."""


class ControlEnvironmentSettings(EnvironmentSettings):
    """The control environments that run side by side."""

    env: str = Field(default="FlexT2IControl-v0", min_length=1, description="id of a registered control environment")
    num_envs: int = Field(default=8, ge=1, description="environments side by side")


class ControlRewardSettings(Settings):
    """The reward that is optimized."""

    name: str = Field(
        default="ShapesVerifier", min_length=1, description="name of the reward, or 'package.module:Class'"
    )
    settings: dict[str, Any] = Field(default={}, description="its arguments")


class ControlVerificationSettings(Settings):
    """How progress is measured: on held-out prompts, by a verifier."""

    reward: str = Field(
        default="ShapesVerifier",
        min_length=1,
        description="name of a pointwise reward that gives 1.0 to a sample without fault",
    )
    prompts: Prompts = Field(default=None, description="held-out prompts: a file or a list; null for the built-in ones")
    split: Split = SPLIT
    audit: bool = AUDIT
    num_prompts: int = Field(default=400, ge=1, description="number of held-out prompts")
    interval: int = Field(
        default=0, ge=0, description="iterations between two verifications; 0 for only before and after"
    )
    seed: Seed = Field(default=7, description="seed of the prompts drawn, the first latents and the noise")


class ControlTrainingSettings(Settings):
    """The algorithm of Stable-Baselines3."""

    algorithm: AlgorithmName = Field(default="PPO", description="algorithm by name")
    policy: str = Field(
        default="MultiInputPolicy", description="kind of policy; MultiInputPolicy reads a dict of arrays"
    )
    steps_per_iteration: int = Field(
        default=256, ge=1, description="environment steps of an iteration, which begins new episodes"
    )


Arguments = dict[str, Any]


class SB3Settings(Settings):
    """A recipe of Stable-Baselines3: sections, and one for each algorithm with its constructor's arguments."""

    run: RunSettings = RunSettings()
    environment: ControlEnvironmentSettings = ControlEnvironmentSettings()
    reward: ControlRewardSettings = ControlRewardSettings()
    verification: ControlVerificationSettings = ControlVerificationSettings()
    training: ControlTrainingSettings = ControlTrainingSettings()
    A2C: Arguments = Field(default={}, description="arguments of stable_baselines3.A2C")
    DDPG: Arguments = Field(default={}, description="arguments of stable_baselines3.DDPG")
    DQN: Arguments = Field(default={}, description="arguments of stable_baselines3.DQN")
    PPO: Arguments = Field(default={}, description="arguments of stable_baselines3.PPO")
    SAC: Arguments = Field(default={}, description="arguments of stable_baselines3.SAC")
    TD3: Arguments = Field(default={}, description="arguments of stable_baselines3.TD3")

    @model_validator(mode="after")
    def _check(self) -> Self:
        raise_problems(_argument_problems(self))
        return self

    @property
    def arguments(self) -> Arguments:
        """Return the arguments of the chosen algorithm's constructor."""
        chosen: Arguments = getattr(self, self.training.algorithm)
        return chosen


def _argument_problems(settings: SB3Settings) -> Iterator[Problem]:
    """Yield what the constructors of Stable-Baselines3 would not take."""
    sections = {name: getattr(settings, name) for name in get_args(AlgorithmName)}
    if not any(sections.values()):
        return  # and leave the library alone, which takes seconds to import
    import stable_baselines3

    for name, arguments in sections.items():
        for key in _GIVEN & arguments.keys():
            yield Problem((name, key), "expected no value, since other settings determine it", unknown=True)
        parameters = setting_parameters(getattr(stable_baselines3, name))
        own = [parameter for parameter in parameters if parameter.name not in _GIVEN]
        try:
            fitted_arguments(name, own, {key: value for key, value in arguments.items() if key not in _GIVEN})
        except ConfigError as error:
            path = blamed(arguments, str(error))
            yield Problem((name, *path), str(error), unknown=isinstance(error, UnknownNameError))
