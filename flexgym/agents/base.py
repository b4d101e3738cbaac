"""Parts shared by the agents: rewards, prompts and environments by name, for the layers below."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium as gym

from flexgym import rewards
from flexgym.agents.shown import shown_sections
from flexgym.config import AgentSettings, WrapperSettings
from flexgym.config.recipe import Recipe, load_recipe
from flexgym.core.errors import ConfigError
from flexgym.core.modules import import_named
from flexgym.environment import environment_modality
from flexgym.reward import Reward
from flexgym.runs.command import Program, run_program
from flexgym.types import Prompt

if TYPE_CHECKING:
    from flexgym.runs.loop import TrainingRun


def _search_path() -> tuple[str, ...]:
    return tuple(str(Path(path).resolve()) for path in sys.path)


@dataclass(frozen=True)
class AgentComponents:
    """Rewards of the package `rewards`, prompts of the environments, and wrappers by path.

    Attributes:
        search_path: folders in which a process that Ray started looks for modules last: those of the process that
            started training.
    """

    search_path: tuple[str, ...] = field(default_factory=_search_path)

    def make_reward(self, name: str, settings: Mapping[str, Any]) -> Reward:
        """Make a reward by name.

        Raises:
            UnknownNameError: no such reward or setting; the message names the nearest one.
        """
        self._find_modules()
        return rewards.make(name, **settings)

    def open_prompts(self, source: Any, modality: str) -> list[Prompt]:
        """Open prompts as an environment does.

        Raises:
            PromptSourceError: they cannot be read.
        """
        from flexgym.envs.prompts import load_prompts

        return list(load_prompts(source, modality))

    def modality(self, env: str) -> str:
        """Return ``"image"`` or ``"video"`` for the id of an environment."""
        self._find_modules()
        return environment_modality(env)

    def wrap(self, envs: gym.vector.VectorEnv, wrappers: Sequence[WrapperSettings]) -> gym.vector.VectorEnv:
        """Put the wrappers that a recipe names around a vector environment, the innermost first."""
        self._find_modules()
        for each in wrappers:
            module, _, name = each.wrapper.partition(":")
            kind = getattr(import_named(module), name, None)
            if not (isinstance(kind, type) and issubclass(kind, gym.vector.VectorEnv)):
                raise ConfigError(
                    f"wrapper {each.wrapper!r}: expected a class derived from gymnasium.vector.VectorWrapper, got"
                    f" {kind!r}"
                )
            wrapped: Any = kind  # of which nobody knows the settings
            envs = wrapped(envs, **each.settings)
        return envs

    def _find_modules(self) -> None:
        sys.path.extend(path for path in self.search_path if path not in sys.path)


def load_agent_settings(recipe: Mapping[str, Any], *, algorithm: str | None = None) -> AgentSettings:
    """Validate a recipe of an agent, its rewards and prompts included, before anything is loaded.

    Args:
        recipe: sections by name.
        algorithm: name of the algorithm that must train; None takes the one that the recipe names.

    Raises:
        ConfigError: settings that cannot work, each with the place where it was written.
        UnknownNameError: names that do not exist, each with the nearest valid one.
    """
    from flexgym.agents.checks import load_checked  # loads torch, for which --help does not wait, as below

    known = Recipe.of(recipe)
    if algorithm is not None:
        section = known.setdefault("algorithm", {})
        if section.setdefault("name", algorithm) != algorithm:
            raise ConfigError(
                f"{known.origin('algorithm', 'name')}: algorithm.name: expected {algorithm!r}, the algorithm of this"
                f" command, got {section['name']!r}: run python -m agents.{section['name']}, or choose another recipe"
            )
    return load_checked(AgentSettings, known, given=["group_size", "prompts"])


@dataclass(frozen=True)
class Agent:
    """The command of an agent, ``main`` of each module of this package.

    Attributes:
        name: module of this package, such as ``"grpo"``.
        algorithm: name of the algorithm; None takes the one that the recipe names.
        default_recipe: recipe of a new run when none is named; by default that of the small world.
        summary: text for ``--help``.
    """

    name: str
    algorithm: str | None = None
    default_recipe: str = ""
    summary: str = ""

    def __call__(self, arguments: Sequence[str] | None = None, *, command: str = "") -> None:
        """Parse a command line and train.

        Args:
            arguments: words after those of the command; None takes the words of this process.
            command: words that started the program, for messages; by default ``python -m agents.<name>``.
        """
        run_program(self.program(command), summary=self.summary, arguments=arguments)

    def program(self, command: str = "") -> Program[AgentSettings]:
        """Return the program behind the command; the argument is that of a call."""

        def load(recipe: Recipe) -> AgentSettings:
            return load_agent_settings(recipe, algorithm=self.algorithm)

        def make_run(settings: AgentSettings, resume: Path | None, words: Sequence[str]) -> TrainingRun:
            from flexgym.rllib.command import make_agent_run  # loads Ray, which a wrong recipe does not wait for

            return make_agent_run(settings, AgentComponents(), resume=resume, command=words)

        recipe = self.default_recipe or f"{self.name}_shapes_t2i.yaml"

        def algorithm() -> str:
            return str(self.algorithm or load_recipe(recipe)["algorithm"]["name"])

        def kind() -> type[AgentSettings]:
            from flexgym.algorithm.base import algorithm_class

            return AgentSettings.with_algorithm(algorithm_class(algorithm()).Settings)

        return Program(
            command or f"python -m agents.{self.name}",
            recipe,
            load=load,
            make_run=make_run,
            kind=kind,
            shown=lambda: shown_sections(algorithm()),
        )
