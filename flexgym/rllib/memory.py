"""The settings that trade memory for time or precision; docs/memory.md weighs them."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Self

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided

from flexgym.core.errors import ConfigError, unknown_name
from flexgym.core.precision import DTYPES, dtype_named
from flexgym.core.sharding import SHARDINGS

if TYPE_CHECKING:
    from flexgym.generators import FlowGenerator
    from flexgym.types import Prompt


class MemoryConfig(AlgorithmConfig):
    """The keys about memory in the sections of `flexgym.rllib.config.FlowAlgorithmConfig`."""

    mode: str
    settings: dict[str, Any]

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.gradient_checkpointing = False
        self.text_cache: str | None = None
        self.release_text_encoders = False
        self.vae_tiling = False
        self.offload = False
        self.sharding = "none"
        self.latents_dtype = "float32"

    def generator(
        self,
        *,
        gradient_checkpointing: bool = NotProvided,
        text_cache: str | None = NotProvided,
        release_text_encoders: bool = NotProvided,
        vae_tiling: bool = NotProvided,
        offload: bool = NotProvided,
        sharding: str = NotProvided,
    ) -> Self:
        """What of the generator stands in memory, and when.

        Args:
            gradient_checkpointing: trade time for memory, see `Weights.checkpoint_gradients`.
            text_cache: folder of encoded prompts, see `PromptEncoder.cache_on_disk`; None keeps none.
            release_text_encoders: encode the prompts of the run at its start, then drop the text encoders, see
                `PromptEncoder.release`.
            vae_tiling: decode samples in tiles, see `Autoencoder.tile`.
            offload: text encoders and autoencoder stand on the device only while they act, see `Placement.offload`.
            sharding: ``"none"`` gives each learner the whole transformer, ``"fsdp"`` a part of every parameter,
                gradient and moment of the optimiser, see `flexgym.core.sharding`.
        """
        return self._set(
            gradient_checkpointing=gradient_checkpointing,
            text_cache=text_cache,
            release_text_encoders=release_text_encoders,
            vae_tiling=vae_tiling,
            offload=offload,
            sharding=sharding,
        )

    def rollout(self, *, latents_dtype: str = NotProvided) -> Self:
        """In what precision a rollout is kept.

        Args:
            latents_dtype: ``"float32"``, ``"bfloat16"`` or ``"float16"``, see `flexgym.policy.FlowPolicy`.
        """
        return self._set(latents_dtype=latents_dtype)

    def _set(self, **values: Any) -> Self:
        for name, value in values.items():
            if value is not NotProvided:
                setattr(self, name, value)
        return self

    @abstractmethod
    def run_prompts(self) -> list[Prompt]:
        """Every prompt that the run gives to the generator, in training and in verification."""

    def settle(self, generator: FlowGenerator) -> None:
        """Let go of what a run needs no longer, once the generator stands on its device."""
        if self.release_text_encoders:
            generator.text.release(self.run_prompts())

    @property
    def shards(self) -> bool:
        """Whether each learner holds but a part of the transformer."""
        return self.sharding == "fsdp"

    @property
    def is_half(self) -> bool:
        """Whether weights are in float16, whose small range asks for a scaled loss."""
        return dtype_named(self.settings.get("dtype") or "float32") == dtype_named("float16")

    @property
    def memory_settings(self) -> dict[str, Any]:
        """What the module does when the generator is loaded."""
        names = ("gradient_checkpointing", "text_cache", "vae_tiling", "offload")
        return {name: getattr(self, name) for name in names}

    def validate(self) -> None:
        """Refuse values of another kind.

        Raises:
            ConfigError: naming the setting, what was expected and what came.
            UnknownNameError: for an unknown precision or sharding.
        """
        for name in ("gradient_checkpointing", "release_text_encoders", "vae_tiling", "offload"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"generator.{name} must be true or false, got {getattr(self, name)!r}")
        if self.text_cache is not None and not (isinstance(self.text_cache, str) and self.text_cache.strip()):
            raise ConfigError(f"generator.text_cache must be a folder or null, got {self.text_cache!r}")
        if self.latents_dtype not in DTYPES:
            raise unknown_name("rollout.latents_dtype", str(self.latents_dtype), DTYPES)
        if self.is_half and self.mode == "full":
            raise ConfigError(
                "generator.settings.dtype=float16 with generator.mode=full: steps of the optimiser would be lost in"
                " float16, and its gradients cannot be scaled back. Train an adapter, which is kept in float32, with"
                " generator.mode=lora, or take bfloat16 or float32"
            )
        if self.sharding not in SHARDINGS:
            raise unknown_name("generator.sharding", str(self.sharding), SHARDINGS)
        if self.shards:
            self._check_sharding()
        super().validate()

    def _check_sharding(self) -> None:
        if self.num_learners < 2:
            raise ConfigError(
                "generator.sharding=fsdp cuts the transformer over learners: expected learners.num_learners of at least"
                f" 2, got {self.num_learners}; generator.sharding=none leaves it whole"
            )
        if self.num_env_runners:
            raise ConfigError(
                "generator.sharding=fsdp: an env runner of its own would hold a whole transformer, so the learners"
                f" sample; expected env_runners.num_env_runners=0, got {self.num_env_runners}"
            )
        if self.is_half:
            raise ConfigError(
                "generator.sharding=fsdp with generator.settings.dtype=float16: an overflow in the part of one learner"
                " would have to stop all of them; take bfloat16, whose loss needs no scale"
            )
