"""The training to plan: its settings, its algorithm, and what memory and time need to know of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import gymnasium
import torch
from gymnasium.envs.registration import load_env_creator

from flexgym.algorithm.base import REFERENCE, Algorithm, CopySchedule, algorithm_class, weight_copies
from flexgym.algorithm.replay import OLD, mean_under
from flexgym.config import AgentSettings
from flexgym.config.load import load_settings
from flexgym.config.recipe import apply_overrides
from flexgym.config.sections import EXTRA_SAMPLES
from flexgym.core.errors import ConfigError, unknown_name
from flexgym.core.precision import dtype_named
from flexgym.flow import Steps
from flexgym.rewards.registry import reward_class


@dataclass(frozen=True, eq=False)
class Planned:
    """A training to plan.

    Attributes:
        settings: settings of the training.
        algorithm: the algorithm that trains.
        modality: ``"image"`` or ``"video"``.
    """

    settings: AgentSettings
    algorithm: Algorithm[Any]
    modality: str

    @classmethod
    def of(cls, settings: AgentSettings) -> Planned:
        """Make the algorithm that settings name, and look up the modality of their environment.

        Raises:
            UnknownNameError: there is no such environment.
            ConfigError: the environment has no modality.
        """
        algorithm = algorithm_class(settings.algorithm.name)(settings.algorithm)
        return cls(settings, algorithm, modality_of(settings.environment.env))

    @classmethod
    def read(cls, recipe: Mapping[str, Any]) -> Planned:
        """Validate a recipe and take its training.

        Args:
            recipe: sections by name, as `load_recipe` and `apply_overrides` return them.

        Raises:
            ConfigError: a setting is not valid, or the recipe trains something other than a generator.
            UnknownNameError: a section or setting does not exist.
        """
        if "judge" in recipe:
            raise ConfigError(
                "expected a recipe that trains a generator, got one that trains a judge:"
                " 'flexgym.rm train ... --dry-run' plans its memory"
            )
        return cls.of(load_settings(AgentSettings, recipe))

    def changed(self, *overrides: str) -> Planned:
        """Return the training with overrides, validated again.

        Args:
            *overrides: overrides as on the command line, such as ``"generator.offload=true"``.

        Raises:
            ConfigError: the settings do not work together.
        """
        settings = load_settings(AgentSettings, apply_overrides(self.settings.model_dump(), overrides))
        return replace(self, settings=settings, algorithm=type(self.algorithm)(settings.algorithm))

    @property
    def sampling(self) -> dict[str, Any]:
        """Sampling settings by name; None where the checkpoint or the pipeline decides."""
        return dict(self.settings.generator.sampling)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return dtype_named(self.settings.generator.dtype)

    @property
    def latents_dtype(self) -> torch.dtype:
        """Precision of the latents that a rollout keeps."""
        return dtype_named(self.settings.rollout.latents_dtype)

    @property
    def learners(self) -> int:
        """Number of learners that share the groups of an iteration."""
        return self.settings.num_shards

    @property
    def runners(self) -> int:
        """Number of separate env runners; 0 where the learners sample."""
        return self.settings.resources.num_env_runners

    @property
    def samples(self) -> int:
        """Samples of one learner in an iteration."""
        rollout = self.settings.rollout
        return rollout.prompts_per_iteration // self.learners * rollout.group_size

    @property
    def forwards(self) -> int:
        """Forwards of one learner that take all its groups through the transformer once."""
        rollout = self.settings.rollout
        return rollout.prompts_per_iteration // self.learners // rollout.groups_per_forward

    @property
    def verified_rows(self) -> int:
        """Held-out samples in the largest forward of a learner; 0 where nothing is verified."""
        chosen = self.settings.verification
        prompts = chosen.num_prompts
        if isinstance(chosen.prompts, tuple):
            prompts = min(prompts, len(chosen.prompts))
        # further samples measure diversity, in forwards of their own
        further = len(chosen.diverse_prompts(prompts)) * EXTRA_SAMPLES
        return min(chosen.rows_per_forward, max(prompts, further)) if chosen.reward else 0

    @property
    def reward_processes(self) -> int:
        """Processes in which rewards in pure Python score the groups of one learner."""
        chosen = self.settings.reward
        named = [] if chosen is None else [(chosen.name, chosen.settings)]
        named += [(each.reward, each.settings) for each in self.settings.monitors]
        return sum(reward_class(name).processes(settings) for name, settings in named)

    def window(self, num_steps: int) -> Steps:
        """Return the trained steps of one iteration; those of all iterations are equally many.

        Args:
            num_steps: denoising steps T of a sample.

        Raises:
            ConfigError: the window does not lie within the steps.
        """
        return self.algorithm.windows(num_steps).windows[0]

    @property
    def needs_reference(self) -> bool:
        """True where the loss compares with the reference policy."""
        return mean_under(REFERENCE) in self.algorithm.requires

    @property
    def keeps_reference(self) -> bool:
        """True where a copy of the weights before training is kept; an adapter is switched off instead."""
        settings = self.settings
        samples = settings.rollout.reference_interval > 0 or settings.verification.trained_share < 1
        return settings.generator.mode == "full" and (self.needs_reference or samples)

    @property
    def replayed(self) -> int:
        """Samples of a group in one replay: all, or with ``training.split: samples`` those of one optimizer step."""
        size, training = self.settings.rollout.group_size, self.settings.training
        return size // training.num_updates if training.split == "samples" else size

    @property
    def asked(self) -> tuple[str, ...]:
        """Names of the weight copies whose means each replay computes, without those that sampled."""
        needs, tasks = self.algorithm.requires, self.algorithm.tasks
        asked = [name for name in self.copies if mean_under(name) in needs or name in tasks]
        return tuple(name for name in asked if name != OLD)

    @cached_property
    def copies(self) -> dict[str, CopySchedule]:
        """Weight copies that training updates, by name."""
        return weight_copies(self.algorithm, self.settings.training)


def modality_of(env: str) -> str:
    """Return ``"image"`` or ``"video"`` for the id of a registered environment.

    Raises:
        UnknownNameError: there is no such environment.
        ConfigError: its class has no attribute ``modality``.
    """
    spec = gymnasium.registry.get(env)
    if spec is None:
        raise unknown_name("environment", env, [name for name in gymnasium.registry if name.startswith("Flex")])
    made = load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point
    modality = getattr(made, "modality", None)
    if modality not in ("image", "video"):
        raise ConfigError(
            f"environment.env={env}: expected an environment of images or videos, whose class has an attribute modality"
            f" of 'image' or 'video'; got {modality!r}"
        )
    return str(modality)
