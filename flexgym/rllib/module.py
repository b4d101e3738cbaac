"""A generator as an RLlib module: what trains is registered with it, the rest of the pipeline rides along."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Self

import torch
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from flexgym.core.errors import ConfigError
from flexgym.core.sharding import shard
from flexgym.flow import NoiseScale
from flexgym.generators import FlowGenerator, load_generator
from flexgym.generators.weights import Weights
from flexgym.policy import FlowPolicy
from flexgym.replay import replay_step


class FlowModule(TorchRLModule):
    """The policy of every flow algorithm.

    ``model_config`` holds ``modality``, ``source``, ``settings`` (see `load_generator`), ``mode`` (``"lora"`` or
    ``"full"``), ``lora`` (arguments of `Weights.add_lora`), ``memory`` (see `MemoryConfig.memory_settings`),
    ``shards`` (whether the transformer will be cut over the learners), ``keep_reference`` and ``noise``.
    """

    framework = "torch"

    def setup(self) -> None:
        """Load the generator and say what trains."""
        config = self.model_config
        memory = dict(config["memory"])
        settings = {"offload": memory.pop("offload"), **config["settings"]}
        if config["shards"]:
            settings["device"] = "cpu"  # what is to be cut may be larger than a device
        generator = load_generator(config["source"], modality=config["modality"], **settings)
        if config["mode"] == "lora":
            generator.weights.add_lora(**config["lora"])
        elif config["mode"] == "full":
            generator.weights.train_full()
            if config["keep_reference"]:
                generator.weights.keep("reference")
        else:
            raise ConfigError(f"mode must be 'lora' or 'full', got {config['mode']!r}")
        _save_memory(generator, **memory)
        self.noise: NoiseScale = config["noise"]
        # not a submodule: text encoders and autoencoder neither train nor belong into any state
        object.__setattr__(self, "generator", generator)
        for name, module in generator.denoisers.items():
            self.add_module(name, module)

    generator: FlowGenerator

    @property
    def weights(self) -> Weights:
        """The weights that train, and their copies."""
        return self.generator.weights

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the whole pipeline, so that text encoders and autoencoder stay with the transformer if they do not rest.

        Args:
            *args: a device, as for `torch.nn.Module.to`.
            **kwargs: as for it.
        """
        self.generator.placement.to(*args, **kwargs)
        return super().to(*args, **kwargs)

    def cut(self, mesh: DeviceMesh, device: torch.device) -> None:
        """Leave each learner its part of what predicts the velocity, and move the rest of the pipeline beside it.

        Args:
            mesh: the learners; every one of them must call it.
            device: of this learner.
        """
        denoisers = self.generator.denoisers
        for denoiser in denoisers.values():
            shard(denoiser, mesh)
        self.weights.shard()
        self.generator.placement.to(device, without=denoisers)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: replay must compute what the rollout computed, so nothing may drop out."""
        return super().train(False)

    def policy(self, **kwargs: Any) -> FlowPolicy:
        """The policy that acts with these weights; arguments as those of `FlowPolicy`."""
        return FlowPolicy(self.generator, self.noise, **kwargs)

    def _forward_train(self, batch: Mapping[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        """Replay one denoising step of some groups, see `replay_step`."""
        return replay_step(self.policy(), batch)

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        inference_only: bool = False,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """What trains, as copies on the CPU: this is what is checkpointed and what is sent to env runners.

        Raises:
            CheckpointError: the transformer is cut over the learners, and its parts were not gathered.
        """
        if self.model_config["shards"] and inference_only:
            return {}  # asked for when an algorithm is built, and there are no env runners then
        return self.weights.state()

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Put a state of `get_state` back.

        Raises:
            CheckpointError: when it is not of this generator.
        """
        self.weights.load_state(state)


def _save_memory(
    generator: FlowGenerator, *, gradient_checkpointing: bool, text_cache: str | None, vae_tiling: bool
) -> None:
    if gradient_checkpointing:
        generator.weights.checkpoint_gradients()
    if text_cache:
        generator.text.cache_on_disk(text_cache)
    if vae_tiling:
        generator.autoencoder.tile()
