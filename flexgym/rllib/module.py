"""A generator as an RLlib module: trainable parameters are registered with it, the rest of the pipeline rides along."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Self

import torch
from ray.rllib.core.rl_module.torch.torch_rl_module import TorchRLModule
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from flexgym.algorithm.policy import FlowPolicy
from flexgym.algorithm.replay import replay_means
from flexgym.config import GeneratorSettings
from flexgym.core.sharding import shard
from flexgym.generators import FlowGenerator, load_generator
from flexgym.generators.weights import REFERENCE, Weights


class FlowModule(TorchRLModule):
    """The policy of every algorithm.

    ``model_config`` holds ``generator`` (a `GeneratorSettings`), ``modality``, ``process``, ``guidance`` and ``acts``
    of the algorithm, ``rollout_guidance``, ``solver`` and ``compute_dtype`` of the samples, ``copies`` (a
    `CopySchedule` of each weight copy by name) and ``keep_reference``.
    """

    framework = "torch"
    generator: FlowGenerator

    def setup(self) -> None:
        """Load the generator, choose its trainable parameters, and keep the copies that exist from the start."""
        config = self.model_config
        generator = arrange(self.open_generator(config["generator"], config["modality"]), config["generator"])
        if config["keep_reference"]:
            generator.weights.keep(REFERENCE)
        # Not a submodule: text encoders and VAE neither train nor belong into any state.
        object.__setattr__(self, "generator", generator)
        for name, module in generator.denoisers.items():
            self.add_module(name, module)
        self._replaying: FlowPolicy | None = None
        self._has_copies = False

    def open_generator(self, settings: GeneratorSettings, modality: str) -> FlowGenerator:
        """Load the generator, before anything of it is trainable; arguments as for `load`."""
        return load(settings, modality)

    @property
    def weights(self) -> Weights:
        """The trainable parameters, and their copies."""
        return self.generator.weights

    def keep_copies(self) -> None:
        """Start the weight copies of training, on the device that the weights are on now.

        Raises:
            CheckpointError: a copy is that of an adapter which cannot be read.
            ConfigError: that adapter does not fit the parameters that train.
        """
        for name, schedule in self.model_config["copies"].items():
            if schedule.adapter is not None:
                self.generator.keep_adapter(name, schedule.adapter)
            else:
                self.weights.keep(name, host=schedule.on_host)
        self._has_copies = True

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the whole pipeline except for what is offloaded.

        Args:
            *args: a device, as for `torch.nn.Module.to`.
            **kwargs: as for it.
        """
        self.generator.placement.to(*args, **kwargs)
        return super().to(*args, **kwargs)

    def shard(self, mesh: DeviceMesh, device: torch.device) -> None:
        """Shard the denoisers over the mesh and move the other modules to this learner's device.

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

    def acting_policy(self, *, groups_per_forward: int, latents_dtype: torch.dtype) -> FlowPolicy:
        """Make the policy that samples for training; arguments as those of `FlowPolicy`."""
        return FlowPolicy(
            self.generator,
            self.model_config["process"],
            groups_per_forward=groups_per_forward,
            latents_dtype=latents_dtype,
            guidance=self.model_config["rollout_guidance"],
            solver=self.model_config["solver"],
            compute_dtype=self.model_config["compute_dtype"],
        )

    @property
    def replaying_policy(self) -> FlowPolicy:
        """The policy that replays with the weights that train."""
        if self._replaying is None:
            self._replaying = FlowPolicy(self.generator, self.model_config["process"])
        return self._replaying

    def _forward_train(self, batch: Mapping[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        """Compute trained levels of some groups again, see `replay_means`."""
        return replay_means(
            self.replaying_policy,
            batch["latents"],
            prompts=batch["prompts"],
            levels=batch["levels"],
            under=batch["under"],
            guidance=self.model_config["guidance"],
        )

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        inference_only: bool = False,
        **kwargs: Any,
    ) -> dict[str, Tensor]:
        """Return the trainable parameters as copies on the CPU: what is checkpointed, or the weights that sample.

        Raises:
            CheckpointError: the transformer is sharded over the learners and was not gathered.
        """
        if not inference_only:
            return self.weights.state()
        if self.model_config["generator"].shards or not self._has_copies:
            return {}  # asked for when an algorithm is built, before there is anything to send
        with self.weights.using(self.model_config["acts"]):
            return self.weights.state()

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Put a state of `get_state` back.

        Raises:
            CheckpointError: it does not fit this generator.
        """
        self.weights.load_state(state)


def load(settings: GeneratorSettings, modality: str) -> FlowGenerator:
    """Load the generator that settings name.

    Args:
        settings: section ``generator`` of a recipe.
        modality: ``"image"`` or ``"video"``.

    Raises:
        CheckpointError: it cannot be loaded.
        ConfigError: a setting that the pipeline cannot have.
    """
    return load_generator(
        settings.source,
        modality=modality,
        # What is to be sharded may be larger than a device.
        device="cpu" if settings.shards else None,
        dtype=settings.dtype,
        variant=settings.variant,
        channels_last=settings.channels_last,
        offload=settings.offload,
        **dict(settings.sampling),
    )


def arrange(generator: FlowGenerator, settings: GeneratorSettings) -> FlowGenerator:
    """Make a generator trainable and save memory as its settings say, and return it.

    Args:
        generator: generator to change.
        settings: section ``generator`` of a recipe.

    Raises:
        CheckpointError: an adapter cannot be read.
        ConfigError: a setting that the pipeline cannot have.
    """
    generator.make_trainable(**settings.training)
    if settings.gradient_checkpointing:
        generator.weights.checkpoint_gradients()
    if settings.text_cache:
        generator.text.cache_on_disk(settings.text_cache)
    if settings.vae_tiling:
        generator.autoencoder.tile()
    return generator
