"""The training that is measured: the recipe as it runs on one device, with as few groups as an update takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch

from flexgym.algorithm.base import algorithm_class
from flexgym.bench.random_weights import RandomModule
from flexgym.config import AgentSettings
from flexgym.config.load import load_settings
from flexgym.config.recipe import Recipe, apply_overrides, load_recipe, shipped_recipes
from flexgym.core.errors import ConfigError
from flexgym.core.modules import import_named
from flexgym.generators.loader import EMBEDDED
from flexgym.planning.architectures import PUBLISHED
from flexgym.planning.planned import modality_of
from flexgym.rllib.algorithm import FlowAlgorithm
from flexgym.rllib.build import algorithm_config

_AGENTS = "flexgym.agents.base"  # above this package, so named and not imported
_ONE_DEVICE = (
    "resources.num_learners=0",
    "resources.num_env_runners=0",
    "generator.sharding=none",
    "verification.reward=null",
    "verification.rewards=[]",
    "verification.prompts=null",
    "verification.interval=0",
)
"""Overrides of every recipe: one process, one device, no verification."""
_WITHOUT_FILES = {"image": "JpegCompressibility", "video": "Mp4Compressibility"}
"""Rewards by modality that load and ask nothing."""
_SHOWN = (
    "environment.env",
    "generator.mode",
    "generator.lora.rank",
    "generator.dtype",
    "generator.channels_last",
    "generator.gradient_checkpointing",
    "generator.release_text_encoders",
    "generator.vae_tiling",
    "generator.offload",
    "rollout.group_size",
    "rollout.prompts_per_iteration",
    "rollout.groups_per_forward",
    "rollout.latents_dtype",
    "rollout.reference_interval",
    "algorithm.name",
    "algorithm.window.size",
    "algorithm.window.strategy",
    "training.num_updates",
    "training.passes",
    "training.split",
    "training.ema_decay",
)
"""Settings that figures depend on and that hold no text of the user."""
_SAMPLING = ("num_steps", "height", "width", "num_frames", "guidance_scale", "true_cfg_scale", "max_sequence_length")


def bench_recipe(name: str, overrides: Sequence[str], *, iterations: int, without_files: bool) -> Recipe:
    """Return a recipe as it is measured.

    Args:
        name: a file, or the name of a shipped recipe.
        overrides: overrides of the user.
        iterations: iterations that will run, for which a plan counts the encoded prompts.
        without_files: use the built-in prompts and a reward that loads and asks nothing.

    Raises:
        ConfigError: the recipe is not one of a generator, or a setting is not valid.
        UnknownNameError: a name is unknown.
    """
    recipe = load_recipe(name)
    _check_kind(name, recipe)
    recipe = apply_overrides(recipe, [*overrides, *_ONE_DEVICE, f"run.iterations={iterations}"])
    recipe = apply_overrides(recipe, [f"resources.num_gpus_per_learner={int(torch.cuda.is_available())}"])
    settings = load_settings(AgentSettings, recipe)
    groups = settings.rollout.groups_per_forward * settings.training.num_updates
    changes = [f"rollout.prompts_per_iteration={groups}"]
    if without_files and settings.reward is not None:
        reward = _WITHOUT_FILES[modality_of(settings.environment.env)]
        changes += ["rollout.prompts=null", f"reward.name={reward}", "reward.settings={}", "reward.monitors=[]"]
    return apply_overrides(recipe, changes)


def _check_kind(name: str, recipe: Mapping[str, Any]) -> None:
    if "judge" in recipe or "algorithm" not in recipe:
        found = "that trains a judge" if "judge" in recipe else "without a section algorithm"
        raise ConfigError(
            f"--config {name}: expected a recipe that trains a generator, such as pref_grpo_shapes_t2i, got one"
            f" {found}: `flexgym recipes` lists what each one trains"
        )


def agent_settings(recipe: Recipe) -> AgentSettings:
    """Validate a recipe with its rewards and prompts, as training does.

    Raises:
        ConfigError: a setting is not valid.
        UnknownNameError: a name is unknown.
    """
    return import_named(_AGENTS).load_agent_settings(recipe)


def build(settings: AgentSettings, *, random_weights: bool) -> FlowAlgorithm:
    """Build the algorithm of a training in this process, as a run builds it.

    Args:
        settings: settings of the training.
        random_weights: make the weights of ``generator.source``, a folder of config files, at random.
    """
    algorithm = algorithm_class(settings.algorithm.name)(settings.algorithm)
    config = algorithm_config(settings, algorithm, import_named(_AGENTS).AgentComponents())
    if random_weights:
        config.module_class = RandomModule
    return config.build_algo()


def shown_settings(
    name: str, settings: AgentSettings, *, source: str | None, sampling: Mapping[str, Any], random_weights: bool
) -> dict[str, Any]:
    """Return the settings that figures depend on: numbers, choices and public names, no paths and no texts.

    Args:
        name: the recipe as the user named it.
        settings: settings of the training.
        source: source of the generator as the recipe names it.
        sampling: effective settings of the sampler.
        random_weights: whether the weights are random.
    """
    guidance, reward = settings.algorithm.guidance, settings.reward
    public = source is None or source in PUBLISHED or source in EMBEDDED
    shown = {each: attrgetter(each)(settings) for each in _SHOWN}
    return {
        "recipe": Path(name).stem if Path(name).stem in shipped_recipes() else "of one's own",
        "generator.source": (source or "embedded") if public else "of one's own",
        "random weights": random_weights,
        **shown,
        **{f"generator.sampling.{key}": value for key in _SAMPLING if (value := sampling.get(key)) is not None},
        **{f"algorithm.guidance.{role}": scale for role, scale in dict(guidance).items() if scale is not None},
        "rollout.prompts": "built in" if settings.rollout.prompts is None else "of one's own",
        "reward.name": "none" if reward is None else _public_name(reward.name),
        "reward.monitors": 0 if reward is None else len(reward.monitors),
    }


def _public_name(reward: str) -> str:
    return "of one's own" if ":" in reward else reward
