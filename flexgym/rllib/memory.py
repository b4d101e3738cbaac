"""The settings that trade memory for time or precision; docs/memory.md weighs them."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Self

import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided

from flexgym.errors import ConfigError, unknown_name

if TYPE_CHECKING:
    from flexgym.generators import FlowGenerator

LATENTS_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class MemoryConfig(AlgorithmConfig):
    """The keys about memory in the sections of `flexgym.rllib.config.FlowAlgorithmConfig`."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.gradient_checkpointing = False
        self.text_cache: str | None = None
        self.release_text_encoders = False
        self.vae_tiling = False
        self.offload = False
        self.latents_dtype = "float32"

    def generator(
        self,
        *,
        gradient_checkpointing: bool = NotProvided,
        text_cache: str | None = NotProvided,
        release_text_encoders: bool = NotProvided,
        vae_tiling: bool = NotProvided,
        offload: bool = NotProvided,
    ) -> Self:
        """What of the generator stands in memory, and when.

        Args:
            gradient_checkpointing: trade time for memory, see `FlowGenerator.checkpoint_gradients`.
            text_cache: folder of encoded prompts, see `FlowGenerator.cache_text`; None keeps none.
            release_text_encoders: encode the prompts of the run at its start, then drop the text encoders, see
                `FlowGenerator.release_text_encoders`.
            vae_tiling: decode samples in tiles, see `FlowGenerator.tile_autoencoder`.
            offload: text encoders and autoencoder stand on the device only while they act, see `FlowGenerator.offload`.
        """
        return self._set(
            gradient_checkpointing=gradient_checkpointing,
            text_cache=text_cache,
            release_text_encoders=release_text_encoders,
            vae_tiling=vae_tiling,
            offload=offload,
        )

    def rollout(self, *, latents_dtype: str = NotProvided) -> Self:
        """In what precision a rollout is kept.

        Args:
            latents_dtype: ``"float32"`` or ``"bfloat16"``, see `flexgym.policy.FlowPolicy`.
        """
        return self._set(latents_dtype=latents_dtype)

    def _set(self, **values: Any) -> Self:
        for name, value in values.items():
            if value is not NotProvided:
                setattr(self, name, value)
        return self

    @abstractmethod
    def run_prompts(self) -> list[str]:
        """Every text that the run gives to the generator, in training and in verification."""

    def settle(self, generator: FlowGenerator) -> None:
        """Let go of what a run needs no longer, once the generator stands on its device."""
        if self.release_text_encoders:
            generator.release_text_encoders(self.run_prompts())

    @property
    def shards(self) -> bool:
        """Whether each learner holds but a part of the transformer."""
        return False

    @property
    def memory_settings(self) -> dict[str, Any]:
        """What the module does when the generator is loaded."""
        names = ("gradient_checkpointing", "text_cache", "vae_tiling", "offload")
        return {name: getattr(self, name) for name in names}

    def validate(self) -> None:
        """Refuse values of another kind.

        Raises:
            ConfigError: naming the setting, what was expected and what came.
            UnknownNameError: for an unknown precision.
        """
        for name in ("gradient_checkpointing", "release_text_encoders", "vae_tiling", "offload"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"generator.{name} must be true or false, got {getattr(self, name)!r}")
        if self.text_cache is not None and not (isinstance(self.text_cache, str) and self.text_cache.strip()):
            raise ConfigError(f"generator.text_cache must be a folder or null, got {self.text_cache!r}")
        if self.latents_dtype not in LATENTS_DTYPES:
            raise unknown_name("rollout.latents_dtype", str(self.latents_dtype), LATENTS_DTYPES)
        super().validate()
