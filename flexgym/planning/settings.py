"""Settings of a recipe that affect its plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from flexgym.core.errors import ConfigError, unknown_name
from flexgym.core.precision import dtype_named
from flexgym.flow import NoiseScale
from flexgym.generators.sampling import SETTINGS, check_settings

_LOADING = ("device", "dtype", "channels_last")
"""Settings of a generator that are arguments of `load_generator`."""
MODES = ("lora", "full")


@dataclass(frozen=True)
class PlanSettings:
    """Settings of a training run that affect memory and time.

    Attributes:
        source: source of the generator, see `load_generator`.
        modality: ``"image"`` or ``"video"``.
        noise: noise scale of the trained steps.
        sampling: settings of sampling, see `Sampling`.
        dtype: precision of the weights.
        mode: ``"lora"`` or ``"full"``.
        lora: arguments of `Weights.add_lora`.
        gradient_checkpointing: True if blocks are recomputed in the backward pass.
        release_text_encoders: True if text encoders are freed once all prompts are encoded.
        text_cache: True if encoded prompts are cached on the disk.
        vae_tiling: True if samples are decoded in tiles.
        offload: True if text encoders and autoencoder are on the device only while they are used.
        shards: True if the transformer is sharded over the learners.
        latents_dtype: precision of the latents that are stored for replay.
        group_size: number of samples of a group, G.
        groups: number of groups of an iteration over all learners, P.
        groups_per_forward: number of groups in one forward.
        window: number of trained steps of each sample, W.
        reference_interval: number of iterations between two rollouts of the reference policy; 0 for none.
        kl_coeff: weight of the KL to the reference policy.
        clip_range: clip range of the ratio.
        ema: True if an EMA of the weights is kept in the memory of the host.
        learners: number of learners that share the groups.
        runners: number of separate devices that sample; 0 if the learners sample.
        updates: number of updates of the weights in an iteration.
        iterations: number of iterations of the run.
    """

    source: str | None
    modality: str
    noise: NoiseScale
    sampling: Mapping[str, Any] = field(default_factory=dict)
    dtype: torch.dtype = torch.float32
    mode: str = "lora"
    lora: Mapping[str, Any] = field(default_factory=dict)
    gradient_checkpointing: bool = False
    release_text_encoders: bool = False
    text_cache: bool = False
    vae_tiling: bool = False
    offload: bool = False
    shards: bool = False
    latents_dtype: torch.dtype = torch.float32
    group_size: int = 16
    groups: int = 16
    groups_per_forward: int = 1
    window: int = 3
    reference_interval: int = 0
    kl_coeff: float = 0.0
    clip_range: float | tuple[float, float] = 1e-3
    ema: bool = False
    learners: int = 1
    runners: int = 0
    updates: int = 1
    iterations: int = 1

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise unknown_name("generator.mode", str(self.mode), MODES)

    @property
    def keeps_reference(self) -> bool:
        """Return True if full training keeps a copy of the initial weights as reference."""
        return self.mode == "full" and (self.kl_coeff > 0 or self.reference_interval > 0)

    @property
    def forwards(self) -> int:
        """Return the number of forwards of the transformer for one step of all groups of a learner."""
        return self.groups // self.learners // self.groups_per_forward


def read_settings(recipe: Mapping[str, Any]) -> PlanSettings:
    """Read the settings of a plan from a recipe that trains a generator.

    Args:
        recipe: sections by name, from `load_recipe` and `apply_overrides`.

    Raises:
        ConfigError: the settings cannot work, or the recipe does not train a generator.
        UnknownNameError: a section or key does not exist.
    """
    from flexgym.rllib.planned import planned_config
    from flexgym.runs.settings import RunSettings

    if "judge" in recipe:
        raise ConfigError(
            "expected a recipe that trains a generator, got one that trains a judge: 'flexgym.rm train ... --dry-run'"
            " reports its memory"
        )
    config = planned_config(recipe)
    check_settings({name: value for name, value in config.settings.items() if name not in _LOADING}, "sampling setting")
    return PlanSettings(
        source=config.source,
        modality=config.modality,
        noise=config.noise,
        sampling={name: value for name, value in config.settings.items() if name in SETTINGS},
        dtype=dtype_named(config.settings.get("dtype") or "float32"),
        mode=config.mode,
        lora=config.lora,
        gradient_checkpointing=config.gradient_checkpointing,
        release_text_encoders=config.release_text_encoders,
        text_cache=bool(config.text_cache),
        vae_tiling=config.vae_tiling,
        offload=config.offload,
        shards=config.shards,
        latents_dtype=dtype_named(config.latents_dtype),
        group_size=config.group_size,
        groups=config.prompts_per_iteration,
        groups_per_forward=config.groups_per_forward,
        window=int(config.window.get("size", 1)),
        reference_interval=config.reference_interval,
        kl_coeff=config.kl_coeff,
        clip_range=config.clip_range,
        ema=config.ema_decay > 0,
        learners=config.num_shards,
        runners=config.num_env_runners,
        updates=config.num_updates,
        iterations=RunSettings.parse(recipe.get("run") or {}).iterations,
    )
