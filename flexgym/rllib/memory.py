"""The settings that trade memory for time or precision; docs/memory.md weighs them."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Self

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig, NotProvided

from flexgym.errors import ConfigError

if TYPE_CHECKING:
    from flexgym.generators import FlowGenerator


class MemoryConfig(AlgorithmConfig):
    """The keys about memory in the sections of `flexgym.rllib.config.FlowAlgorithmConfig`."""

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.gradient_checkpointing = False
        self.text_cache: str | None = None
        self.release_text_encoders = False

    def generator(
        self,
        *,
        gradient_checkpointing: bool = NotProvided,
        text_cache: str | None = NotProvided,
        release_text_encoders: bool = NotProvided,
    ) -> Self:
        """What of the generator stands in memory, and when.

        Args:
            gradient_checkpointing: trade time for memory, see `FlowGenerator.checkpoint_gradients`.
            text_cache: folder of encoded prompts, see `FlowGenerator.cache_text`; None keeps none.
            release_text_encoders: encode the prompts of the run at its start, then drop the text encoders, see
                `FlowGenerator.release_text_encoders`.
        """
        return self._set(
            gradient_checkpointing=gradient_checkpointing,
            text_cache=text_cache,
            release_text_encoders=release_text_encoders,
        )

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
    def memory_settings(self) -> dict[str, Any]:
        """What the module does as soon as the generator is loaded."""
        return {"gradient_checkpointing": self.gradient_checkpointing, "text_cache": self.text_cache}

    def validate(self) -> None:
        """Refuse values of another kind.

        Raises:
            ConfigError: naming the setting, what was expected and what came.
        """
        for name in ("gradient_checkpointing", "release_text_encoders"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"generator.{name} must be true or false, got {getattr(self, name)!r}")
        if self.text_cache is not None and not (isinstance(self.text_cache, str) and self.text_cache.strip()):
            raise ConfigError(f"generator.text_cache must be a folder or null, got {self.text_cache!r}")
        super().validate()
