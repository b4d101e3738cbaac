"""The adapter that makes a diffusers flow-matching pipeline a policy: condition, velocity, decode, and what trains."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flexgym.errors import ConfigError, GeneratorError
from flexgym.flow.sigmas import Spacing, sigma_grid
from flexgym.generators.conditioning import Conditioning, Embedding, EmbeddingCache
from flexgym.generators.sampling import Sampling, call_defaults, check_settings, resolve_sampling
from flexgym.generators.training import Trainable

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

FlowPipeline: TypeAlias = "DiffusionPipeline"

_DECODE_PIXELS = 1 << 22
"""Pixels that one call of the autoencoder decodes at most: sixteen pictures of 512x512."""


class FlowGenerator(Trainable):
    """A diffusers flow-matching pipeline as a policy over latents.

    The pipeline's own modules do the work; sampling with the Euler step gives what its ``__call__`` gives, to the bit.
    A family overrides class attributes, and methods where a pipeline does something else. The modules are frozen and in
    evaluation mode until `add_lora` or `train_full` says what trains.

    Args:
        pipe: the loaded pipeline.
        checkpoint: sampling defaults that came with the weights; they override those of the pipeline's ``__call__``.
        settings: of the user; they override both.

    Attributes:
        pipe: the pipeline.
        settings: how it samples.
        latent_shape: of one sample, without the batch dimension.
        sample_shape: of one decoded sample: ``(H, W, 3)`` or ``(F, H, W, 3)``.

    Raises:
        GeneratorError: when the pipeline cannot serve.
        ConfigError: for a size or a number of frames that the autoencoder cannot make.
        UnknownNameError: for an unknown setting.
    """

    pipelines: ClassVar[tuple[str, ...]] = ()
    """Names of the diffusers classes that a family serves."""
    modality: ClassVar[str] = "image"
    encoded: ClassVar[tuple[str | None, ...]] = ("encoder_hidden_states",)
    """What each output of ``encode_prompt`` is called by the transformer; None for outputs that are not used."""
    joint_guidance: ClassVar[bool] = False
    """Whether guidance is one call of [unconditional, conditional] rows, or a call for each."""
    spacing: ClassVar[Spacing] = "scheduler"
    """How the noise levels lie before they are shifted, see `sigma_grid`."""
    timestep_unit: ClassVar[float] = 1000.0
    """What the transformer calls noise level 1."""

    def __init__(
        self,
        pipe: FlowPipeline,
        *,
        checkpoint: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        _check_parts(pipe)
        self.check_pipeline(pipe)
        super().__init__(pipe)
        for module in pipe.components.values():
            if isinstance(module, torch.nn.Module):
                module.eval().requires_grad_(False)
        pipe.set_progress_bar_config(disable=True)
        self.dtype: torch.dtype = pipe.transformer.dtype
        self._cache = EmbeddingCache()
        self._configure(resolve_sampling(self._call_defaults(), checkpoint or {}, settings or {}))

    def __deepcopy__(self, memo: dict[int, Any]) -> FlowGenerator:
        """The generator itself: weights are shared and never duplicated by accident.

        Gymnasium copies the arguments of an environment deeply whenever its spec is read.
        """
        return self

    @classmethod
    def check_pipeline(cls, pipe: FlowPipeline) -> None:
        """Refuse a pipeline of the family's class that works in another way.

        Args:
            pipe: the loaded pipeline.

        Raises:
            GeneratorError: naming what was expected and what came.
        """

    # --- settings and shapes -----------------------------------------------------------------------------------------

    def with_settings(self, **settings: Any) -> FlowGenerator:
        """A view that samples in another way and shares every module, whatever trains, and the cache of encoded text.

        Args:
            settings: see `Sampling`; those not given (or None) stay.

        Returns:
            The view; the generator itself when nothing changes.

        Raises:
            UnknownNameError: for an unknown setting.
            ConfigError: for a value that cannot work.
        """
        check_settings(settings, "sampling setting")
        chosen = resolve_sampling(vars(self.settings), settings)
        if chosen == self.settings:
            return self
        view = copy.copy(self)
        if chosen.max_sequence_length != self.settings.max_sequence_length:
            view._cache = EmbeddingCache()
        view._configure(chosen)
        return view

    def _configure(self, settings: Sampling) -> None:
        if self.modality == "video" and settings.num_frames is None:
            raise ConfigError(f"{self.name} makes videos: pass num_frames")
        if self.modality == "image" and settings.num_frames is not None:
            raise ConfigError(f"{self.name} makes pictures: num_frames={settings.num_frames} does not apply")
        for side in ("height", "width"):
            _check_divides(side, getattr(settings, side), self.size_multiple())
        if settings.num_frames is not None:
            _check_frames(settings.num_frames, self.frames_multiple())
        self.settings = settings
        self.latent_shape = self._latent_shape()
        frames = () if settings.num_frames is None else (settings.num_frames,)
        self.sample_shape = (*frames, settings.height, settings.width, 3)
        self._sigmas = sigma_grid(
            self.pipe.scheduler, settings.num_steps, image_seq_len=self.image_seq_len(), spacing=self.spacing
        )

    def _call_defaults(self) -> dict[str, Any]:
        defaults = _defaults(self.pipe.__call__)
        if defaults.get("height") is None and hasattr(self.pipe, "default_sample_size"):
            size = self.pipe.default_sample_size * self.spatial_factor()
            defaults.update(height=size, width=size)
        return call_defaults(defaults)

    @property
    def name(self) -> str:
        """The class of the pipeline."""
        return type(self.pipe).__name__

    @property
    def device(self) -> torch.device:
        """Where the transformer lives."""
        return next(self.transformer.parameters()).device

    def spatial_factor(self) -> int:
        """Pixels for each latent, along height and width."""
        own = getattr(self.pipe, "vae_scale_factor_spatial", None)
        return int(own or self.pipe.vae_scale_factor)

    def frames_multiple(self) -> int:
        """Frames for each latent frame after the first."""
        return int(self.pipe.vae_scale_factor_temporal)

    def size_multiple(self) -> int:
        """What height and width must be divisible by: the autoencoder's factor times the transformer's patch."""
        patch = self.transformer.config.patch_size
        return self.spatial_factor() * (patch if isinstance(patch, int) else patch[-1])

    def image_seq_len(self) -> int | None:
        """Tokens of a sample, which decide how far some schedulers shift the noise levels."""
        patch = self.transformer.config.patch_size
        return math.prod(side // patch for side in self.latent_shape[-2:])

    def _latent_shape(self) -> tuple[int, ...]:
        settings, factor = self.settings, self.spatial_factor()
        frames: tuple[int, ...] = ()
        if settings.num_frames is not None:
            frames = ((settings.num_frames - 1) // self.frames_multiple() + 1,)
        channels = int(self.transformer.config.in_channels)
        return (channels, *frames, settings.height // factor, settings.width // factor)

    def sigmas(self) -> Tensor:
        """The noise levels of a run, ``[T + 1]`` float32 on the CPU, from 1 to 0."""
        return self._sigmas.clone()

    # --- sampling ----------------------------------------------------------------------------------------------------

    @property
    def guided(self) -> bool:
        """Whether the unconditional branch is computed."""
        return self.settings.guidance_scale > 1

    def condition(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts, each once: later calls find it in the cache.

        Every text is encoded alone, so that its embedding does not depend on which others came with it.

        Args:
            prompts: P texts.

        Returns:
            P rows on the generator's device.

        Raises:
            ConfigError: without any prompt.
        """
        if isinstance(prompts, str) or not prompts:
            raise ConfigError(f"expected a sequence of at least one prompt, got {prompts!r}")
        entries = [self._cache.get(text, self._encode) for text in prompts]
        rows = {name: torch.cat([entry[name] for entry in entries]) for name in entries[0]}
        return Conditioning(rows, self._cache.get("", self._encode) if self.guided else {})

    @torch.no_grad()
    def _encode(self, text: str) -> Embedding:
        """One text as arguments of the transformer, each ``[1, ...]``."""
        offered = {
            "prompt": [text],
            "device": self.device,
            "num_images_per_prompt": 1,
            "num_videos_per_prompt": 1,
            "do_classifier_free_guidance": False,
            "max_sequence_length": self.settings.max_sequence_length,
        }
        wanted = inspect.signature(self.pipe.encode_prompt).parameters
        arguments = {name: value for name, value in offered.items() if name in wanted and value is not None}
        # second and third encoders take the same text when they are given none
        for name, parameter in wanted.items():
            if name.startswith("prompt_") and parameter.default is parameter.empty:
                arguments[name] = None
        outputs = self.pipe.encode_prompt(**arguments)
        named = zip(self.encoded, outputs, strict=False)
        return {name: output.to(self.device, self.dtype) for name, output in named if name is not None}

    def initial_latents(self, count: int, seed: int | torch.Generator) -> Tensor:
        """Gaussian noise to start from, the same on every device.

        Args:
            count: rows B.
            seed: of the noise, or a CPU generator to draw it from.

        Returns:
            float32 ``[B, ...]``.
        """
        source = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
        return torch.randn(count, *self.latent_shape, generator=source, dtype=torch.float32).to(self.device)

    def velocity(
        self, latents: Tensor, sigma: Tensor, conditioning: Conditioning, *, micro_batch: int | None = None
    ) -> Tensor:
        """The velocity ``noise - clean`` that the transformer predicts, guidance included.

        Rollout and replay both call this. Matrix kernels may round differently for another number of rows, so the two
        are equal to the bit when they use the same ``micro_batch``: a group is the natural one.

        Args:
            latents: ``[B, ...]``.
            sigma: noise level of each row, ``[B]``.
            conditioning: B rows.
            micro_batch: rows of one forward; B must be a multiple of it. None takes all rows at once.

        Returns:
            float32 ``[B, ...]``; gradients flow to what trains.

        Raises:
            ConfigError: when the numbers of rows do not fit.
        """
        rows = len(latents)
        size = micro_batch or max(rows, 1)
        if not rows == len(sigma) == len(conditioning) or rows % size:
            raise ConfigError(
                f"expected as many latents as noise levels and prompts, and a multiple of {size} rows, got {rows},"
                f" {len(sigma)} and {len(conditioning)} (Conditioning.repeat makes a row for each sample)"
            )
        levels = sigma.to(latents.device, torch.float32)
        if rows <= size:
            return self._velocity(latents, levels, conditioning)
        blocks = [slice(start, start + size) for start in range(0, rows, size)]
        return torch.cat([self._velocity(latents[at], levels[at], conditioning.index(at)) for at in blocks])

    def _velocity(self, latents: Tensor, sigma: Tensor, conditioning: Conditioning) -> Tensor:
        hidden, timestep = latents.to(self.dtype), sigma * self.timestep_unit
        if not self.guided:
            return self.forward(hidden, timestep, conditioning.prompts).float()
        empty = conditioning.unconditional()
        if not empty:
            raise ConfigError(
                "these prompts were encoded without guidance: encode them with this generator's condition()"
            )
        if self.joint_guidance:
            both = {name: torch.cat([empty[name], rows]) for name, rows in conditioning.prompts.items()}
            unconditional, conditional = self.forward(
                hidden.repeat(2, *(1,) * (hidden.ndim - 1)), timestep.repeat(2), both
            ).chunk(2)
        else:
            conditional = self.forward(hidden, timestep, conditioning.prompts)
            unconditional = self.forward(hidden, timestep, empty)
        return self.combine(conditional, unconditional).float()

    def forward(self, hidden: Tensor, timestep: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        """One call of the transformer.

        Args:
            hidden: latents in the transformer's precision, ``[B, ...]``.
            timestep: in the transformer's unit, ``[B]``.
            text: encoded prompts by argument name, ``[B, ...]`` each.

        Returns:
            The velocity ``[B, ...]``.
        """
        return self.transformer(hidden_states=hidden, timestep=timestep, **text, return_dict=False)[0]

    def combine(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        """Classifier-free guidance (arXiv 2207.12598): both ``[B, ...]``, extrapolated by ``guidance_scale``."""
        return unconditional + self.settings.guidance_scale * (conditional - unconditional)

    # --- decoding ----------------------------------------------------------------------------------------------------

    def to_autoencoder(self, latents: Tensor) -> Tensor:
        """Latents as the autoencoder expects them; both ``[B, ...]``."""
        config = self.pipe.vae.config
        return latents / config.scaling_factor + (config.shift_factor or 0.0)

    @torch.no_grad()
    def decode(self, latents: Tensor, chunk: int | None = None) -> NDArray[np.uint8]:
        """Decode clean latents, clamped and rounded as diffusers does.

        Kernels may round differently for another number of rows, by one level of 255: what must be equal to the bit is
        decoded in the same chunks.

        Args:
            latents: ``[B, ...]``.
            chunk: rows that the autoencoder sees at once; by default about four million pixels.

        Returns:
            uint8 ``[B, H, W, 3]`` or ``[B, F, H, W, 3]``.
        """
        size = chunk or max(1, _DECODE_PIXELS // math.prod(self.sample_shape[:-1]))
        samples = np.empty((len(latents), *self.sample_shape), dtype=np.uint8)
        for start in range(0, len(latents), size):
            rows = latents[start : start + size].to(self.pipe.vae.device, self.pipe.vae.dtype)
            pixels = self.pipe.vae.decode(self.to_autoencoder(rows), return_dict=False)[0]
            levels = (pixels * 0.5 + 0.5).clamp(0, 1).float().mul(255).round().to(torch.uint8)
            samples[start : start + size] = levels.movedim(1, -1).cpu().numpy()
        return samples

    def save(self, folder: str | Path) -> Path:
        """Write what trains in the format of diffusers, so that the stock pipeline loads it.

        An adapter becomes ``pytorch_lora_weights.safetensors``; otherwise the whole pipeline is written, with
        ``generation_config.json``. The folder appears only once it is complete.

        Args:
            folder: that does not exist yet.

        Returns:
            The folder.

        Raises:
            CheckpointError: when the folder exists.
        """
        return self._save(Path(folder), vars(self.settings))


def _defaults(function: Any) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


def _check_divides(name: str, value: int, multiple: int) -> None:
    if value % multiple:
        below = value - value % multiple
        raise ConfigError(
            f"{name} must be a multiple of {multiple}, got {value}; the nearest are {below} and {below + multiple}"
        )


def _check_frames(num_frames: int, multiple: int) -> None:
    """The autoencoder makes one frame, then ``multiple`` for each latent frame."""
    if (num_frames - 1) % multiple:
        below = num_frames - 1 - (num_frames - 1) % multiple + 1
        raise ConfigError(
            f"num_frames must be 1 more than a multiple of {multiple}, got {num_frames};"
            f" the nearest are {below} and {below + multiple}"
        )


def _check_parts(pipe: FlowPipeline) -> None:
    for part in ("transformer", "vae", "scheduler"):
        if getattr(pipe, part, None) is None:
            raise GeneratorError(f"{type(pipe).__name__} has no {part}: expected a flow-matching transformer pipeline")
    check_scheduler(type(pipe.scheduler).__name__, pipe.scheduler.config)


def check_scheduler(name: str, config: Mapping[str, Any]) -> None:
    """Refuse a scheduler that is not one of flow matching.

    Args:
        name: its class.
        config: its settings.

    Raises:
        GeneratorError: naming what was expected and what came.
    """
    flow_sigmas = config.get("use_flow_sigmas") and config.get("prediction_type") == "flow_prediction"
    if not (name.startswith("FlowMatchEuler") or flow_sigmas):
        raise GeneratorError(
            f"expected a flow-matching scheduler (FlowMatchEulerDiscreteScheduler, or one with use_flow_sigmas and"
            f" prediction_type 'flow_prediction'), got {name}: a diffusion model has no velocity to train here"
        )
