"""The settings of an agent: everything that a training run of a generator needs to know."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import Field, SerializeAsAny, create_model, model_validator

from flexgym.algorithm.settings import AlgorithmSettings
from flexgym.config.data import DataSettings
from flexgym.config.generator import GeneratorSettings
from flexgym.config.sections import (
    EnvironmentSettings,
    ResourceSettings,
    RewardSettings,
    RLlibSettings,
    RunSettings,
    VerificationSettings,
    WatchedReward,
)
from flexgym.config.training import RolloutSettings, TrainingSettings
from flexgym.core.errors import ConfigError, UnknownNameError, nearest_name
from flexgym.core.problems import Problem, blamed, got, names_below, raise_problems
from flexgym.core.settings import Settings
from flexgym.environment import environment_modality

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
    data: DataSettings | None = Field(
        default=None, description="Data set that iterations train on in place of rollouts."
    )
    reward: RewardSettings | None = Field(
        default=None, description="The reward that is optimized, and those that are only logged."
    )
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
        if problems := list(_algorithm_problems(algorithm(found.algorithm), found)):
            return None, problems
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
    def monitors(self) -> tuple[WatchedReward, ...]:
        """Return the rewards that are only logged; none with a data set."""
        return self.reward.monitors if self.reward else ()

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
    from flexgym.algorithm.base import algorithm_class

    section = values.get("algorithm")
    name = section.get("name") if isinstance(section, Mapping) else None
    if not (isinstance(name, str) and name):
        raise ConfigError(f"expected the name of an algorithm, such as grpo, got {got(name)}")
    return algorithm_class(name)


def _algorithm_problems(algorithm: Any, settings: AgentSettings) -> Iterator[Problem]:
    """Yield what an algorithm cannot do under its own and other settings."""
    from flexgym.algorithm.effects import data_misfit, effect_problems, precision_misfit, solver_misfit

    num_steps = known_num_steps(settings)
    try:
        algorithm.check(num_steps)
    except ConfigError as error:
        yield Problem(("algorithm", *blamed(dict(settings.algorithm), str(error))), str(error))
        return
    if (message := data_misfit(algorithm, is_given=settings.data is not None)) is not None:
        yield Problem(("data",), message)
    if (message := solver_misfit(algorithm, settings.rollout.solver, num_steps)) is not None:
        yield Problem(("rollout", "solver"), message)
    if settings.rollout.compute_dtype and num_steps is not None and (message := precision_misfit(algorithm, num_steps)):
        yield Problem(("rollout", "compute_dtype"), f"{message}, got {settings.rollout.compute_dtype}")
    yield from _task_problems(algorithm, settings)
    yield from effect_problems(algorithm, settings.training, distilled=_is_distilled(settings.generator))


def _task_problems(algorithm: Any, settings: AgentSettings) -> Iterator[Problem]:
    """Yield what does not fit prompts that take turns."""
    if not algorithm.tasks:
        return
    if settings.rollout.prompts is not None:
        yield Problem(
            ("rollout", "prompts"),
            f"has no effect with {type(algorithm).__name__}, whose tasks have prompts of their own: leave it out",
        )
    if settings.shards and settings.rollout.groups_per_forward > 1:
        yield Problem(
            ("rollout", "groups_per_forward"),
            "expected 1 with generator.sharding=fsdp and tasks, so that all learners compute as many forwards, got"
            f" {settings.rollout.groups_per_forward}",
        )


def _is_distilled(generator: GeneratorSettings) -> bool:
    """Return whether the steps of a generator were distilled, from settings or local files."""
    if generator.distilled is not None:
        return generator.distilled
    from flexgym.generators.defaults import is_distilled

    return is_distilled(generator.source)


def agent_problems(settings: AgentSettings) -> Iterator[Problem]:
    """Yield what cannot work together in the settings of an agent."""
    yield from _precision_problems(settings)
    yield from _adapter_problems(settings.generator)
    yield from _sharding_problems(settings)
    yield from _division_problems(settings)
    yield from _source_problems(settings)
    yield from _monitor_problems(settings)
    num_steps = known_num_steps(settings)
    if num_steps is not None and (message := settings.algorithm.window.misfit(num_steps)):
        yield Problem(("algorithm", "window"), message)
    for section, entries in (("reward", settings.monitors), ("verification", settings.verification.rewards)):
        titles = [entry.title for entry in entries]
        if len(set(titles)) < len(titles):
            key = "monitors" if section == "reward" else "rewards"
            yield Problem((section, key), f"expected a name of its own for each reward, got {titles}")


def _source_problems(settings: AgentSettings) -> Iterator[Problem]:
    """Yield what does not go with the source of the samples: rollouts with a reward, or a data set."""
    if settings.data is None:
        if settings.reward is None:
            yield Problem(("reward",), "expected the name of a reward, or a section data with samples, got neither")
        if settings.rollout.group_size < 2:
            yield Problem(("rollout", "group_size"), "expected at least 2 samples, which advantages compare, got 1")
        return
    if settings.reward is not None:
        yield Problem(("reward",), "expected no reward with section data, whose rows have scores instead; leave it out")
    if settings.is_online:
        yield Problem(
            ("resources", "num_env_runners"),
            f"expected 0 with section data, from which the learners read, got {settings.resources.num_env_runners}",
        )
    if settings.rollout.prompts is not None:
        yield Problem(("rollout", "prompts"), "expected none with section data, whose rows have captions; leave it out")
    for name, idle in (("reference_interval", "0"), ("solver", "euler"), ("compute_dtype", "null")):
        if (chosen := getattr(settings.rollout, name)) != RolloutSettings.model_fields[name].default:
            message = f"expected {idle} with section data, which samples nothing, got {chosen}"
            yield Problem(("rollout", name), message)
    if settings.data.select == "extremes" and settings.rollout.group_size != 2:
        yield Problem(
            ("data", "select"),
            f"expected rollout.group_size=2 with extremes, best and worst, got {settings.rollout.group_size}",
        )


def _monitor_problems(settings: AgentSettings) -> Iterator[Problem]:
    """Yield names of monitors that training asks for and that do not exist."""
    titles, training = [entry.title for entry in settings.monitors], settings.training
    asked = {("gate", "monitors"): training.gate.monitors if training.gate else ()}
    if training.advantage.diversity is not None:
        asked["advantage", "diversity"] = (training.advantage.diversity,)
    for path, names in asked.items():
        for name in names:
            if name not in titles:
                message = f"expected names of reward.monitors, got {name!r}. {nearest_name(name, titles)}"
                yield Problem(("training", *path), message, unknown=True)


def known_num_steps(settings: AgentSettings) -> int | None:
    """Return the denoising steps of a sample from settings or local files; None where neither has them."""
    chosen = settings.generator
    if chosen.sampling.num_steps is not None:
        return chosen.sampling.num_steps
    from flexgym.generators.defaults import default_num_steps  # loads torch, for which a help text does not wait

    try:
        modality = environment_modality(settings.environment.env)
    except ConfigError:  # said where environments are checked
        modality = "image"
    return default_num_steps(chosen.source, modality)


def _precision_problems(settings: AgentSettings) -> Iterator[Problem]:
    if settings.rollout.compute_dtype and settings.generator.dtype != "float32":
        yield Problem(
            ("rollout", "compute_dtype"),
            f"expected null with generator.dtype={settings.generator.dtype}, in which forwards already compute, got"
            f" {settings.rollout.compute_dtype}",
        )
    if settings.is_half and settings.generator.mode == "full":
        yield Problem(
            ("generator", "dtype"),
            "expected bfloat16 or float32 with generator.mode=full, got float16, where optimizer steps are lost"
            " and gradients cannot be scaled back; or train an adapter, which is float32, with generator.mode=lora",
        )


def _adapter_problems(generator: GeneratorSettings) -> Iterator[Problem]:
    """Yield settings of an adapter to start from that would have no effect."""
    if generator.adapter is None:
        if generator.adapter_as == "merge":
            yield Problem(("generator", "adapter_as"), "expected generator.adapter with it, got no adapter to merge")
    elif generator.adapter_as == "start":
        if generator.mode == "full":
            yield Problem(
                ("generator", "adapter_as"),
                "expected merge with generator.mode=full, which trains all weights, got start, which trains the adapter"
                " itself",
            )
        if generator.lora.seed:
            yield Problem(
                ("generator", "lora", "seed"),
                f"expected no seed, since generator.adapter has its values, got {generator.lora.seed}; leave it out, or"
                " train a new adapter on top with generator.adapter_as=merge",
            )


def _sharding_problems(settings: AgentSettings) -> Iterator[Problem]:
    if not settings.shards:
        return
    resources = settings.resources
    if resources.num_learners < 2:
        yield Problem(
            ("resources", "num_learners"),
            "generator.sharding=fsdp shards the transformer over learners: expected num_learners of at least 2, got"
            f" {resources.num_learners}; generator.sharding=none leaves it unsharded",
        )
    if resources.num_env_runners:
        yield Problem(
            ("resources", "num_env_runners"),
            "generator.sharding=fsdp: an env runner would hold the unsharded transformer, so the learners sample;"
            f" expected num_env_runners=0, got {resources.num_env_runners}",
        )
    if settings.is_half:
        yield Problem(
            ("generator", "dtype"),
            "generator.sharding=fsdp: expected bfloat16 or float32, got float16, where an overflow on one learner would"
            " have to stop all of them; bfloat16 needs no loss scale",
        )


def _division_problems(settings: AgentSettings) -> Iterator[Problem]:
    """Yield the first number that the groups of an iteration do not divide into."""
    rollout, learners, updates = settings.rollout, settings.num_shards, settings.training.num_updates
    if settings.training.split == "samples":
        if rollout.group_size % updates:
            yield Problem(
                ("rollout", "group_size"),
                f"expected a multiple of training.num_updates={updates}, since training.split=samples divides every"
                f" group, got {rollout.group_size}",
            )
        updates = 1
    groups, per_forward = rollout.prompts_per_iteration, rollout.groups_per_forward
    divisors = {
        "the learners (resources.num_learners)": learners,
        "learners times training.num_updates": learners * updates,
        "learners times training.num_updates times rollout.groups_per_forward": learners * updates * per_forward,
        "the env runners times rollout.groups_per_forward": settings.resources.num_env_runners * per_forward,
    }
    for what, count in divisors.items():
        if count and groups % count:
            nearest = max(count, groups - groups % count)
            yield Problem(
                ("rollout", "prompts_per_iteration"),
                f"expected a multiple of {what}, {count}, so that groups stay together; got {groups}, the nearest is"
                f" {nearest}",
            )
            return
