"""The adapter that makes a diffusers flow-matching pipeline a policy: condition, velocity, decode, and what trains."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flexgym.core.errors import ConfigError, GeneratorError
from flexgym.flow.sigmas import Spacing, sigma_grid
from flexgym.generators.channels import denormalise
from flexgym.generators.conditioning import Conditioning, Embedding, EmbeddingCache, stack_rows
from flexgym.generators.frames import KNOWN, FrameConditioned, without_known
from flexgym.generators.sampling import Sampling, call_defaults, check_settings, resolve_sampling
from flexgym.types import Prompt

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

FlowPipeline: TypeAlias = "DiffusionPipeline"

_DECODE_PIXELS = 1 << 22
"""Pixels that one call of the autoencoder decodes at most: sixteen pictures of 512x512."""


class FlowGenerator(FrameConditioned):
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
    call_names: ClassVar[Mapping[str, str]] = {}
    """What ``__call__`` calls a setting of `Sampling`, where it has another name for it."""
    call_options: ClassVar[Mapping[str, Any]] = {}
    """Further arguments of ``__call__`` under which it does what the adapter does."""
    call_groups: ClassVar[bool] = True
    """Whether ``__call__`` can make several samples of a prompt; where it fails to, it is given the prompt again."""
    default_side: ClassVar[int | None] = None
    """Height and width in pixels that ``__call__`` takes when it is given none, where only its code says so."""
    joint_guidance: ClassVar[Literal["unconditional first", "conditional first"] | None] = None
    """How the rows of both branches of guidance are put into one call; None makes a call for each."""
    embedded_guidance: ClassVar[bool] = False
    """Whether ``guidance_scale`` is an input of the transformer; then ``true_cfg_scale`` weighs the two branches."""
    full_precision: ClassVar[bool] = False
    """Whether guidance and the step are computed in float32 when the transformer is not."""
    packing: ClassVar[int] = 1
    """Latents along each side of a token, where the pipeline packs them and the transformer does not."""
    spacing: ClassVar[Spacing] = "scheduler"
    """How the noise levels lie before they are shifted, see `sigma_grid`."""

    def __init__(
        self,
        pipe: FlowPipeline,
        *,
        checkpoint: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        check_parts(pipe)
        self.check_pipeline(pipe)
        super().__init__(pipe)
        for module in pipe.components.values():
            if isinstance(module, torch.nn.Module):
                module.eval().requires_grad_(False)
        pipe.set_progress_bar_config(disable=True)
        self.dtype: torch.dtype = pipe.transformer.dtype
        self._configure(resolve_sampling(self.call_defaults(), checkpoint or {}, settings or {}))

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
        if settings.true_cfg_scale is not None and not (
            self.embedded_guidance and "true_cfg_scale" in _defaults(self.pipe.__call__)
        ):
            raise ConfigError(f"{self.name} has one weight of guidance: pass guidance_scale, not true_cfg_scale")
        for side in ("height", "width"):
            _check_divides(side, getattr(settings, side), self.size_multiple())
        if settings.num_frames is not None:
            _check_frames(settings.num_frames, self.frames_multiple(), cut=self.cut_frames())
        self.settings = settings
        self.latent_shape = self._latent_shape()
        frames = () if settings.num_frames is None else (settings.num_frames - self.cut_frames(),)
        self.sample_shape = (*frames, settings.height, settings.width, 3)
        self._sigmas = sigma_grid(
            self.pipe.scheduler,
            settings.num_steps,
            image_seq_len=self.image_seq_len(),
            mu=self.shift_mu(),
            spacing=self.spacing,
        )

    def call_defaults(self) -> dict[str, Any]:
        """The settings that ``__call__`` has by default, by the names of `Sampling`."""
        defaults = _defaults(self.pipe.__call__)
        if defaults.get("height") is None:
            height, width = self.default_size()
            defaults.update(height=height, width=width)
        return call_defaults(defaults, self.call_names)

    def default_size(self) -> tuple[int | None, int | None]:
        """Height and width in pixels that ``__call__`` takes when it is given none."""
        side = self.default_side
        if hasattr(self.pipe, "default_sample_size"):
            side = self.pipe.default_sample_size * self.pipe.vae_scale_factor
        return side, side

    @property
    def name(self) -> str:
        """The class of the pipeline."""
        return type(self.pipe).__name__

    def spatial_factor(self) -> int:
        """Pixels for each latent, along height and width."""
        return _factor(self.pipe, "vae_scale_factor_spatial", "vae_spatial_compression_ratio", "vae_scale_factor")

    def frames_multiple(self) -> int:
        """Frames for each latent frame after the first."""
        return _factor(self.pipe, "vae_scale_factor_temporal", "vae_temporal_compression_ratio")

    def cut_frames(self) -> int:
        """Frames at the start of a decoded video that are no part of the sample."""
        return 0

    def size_multiple(self) -> int:
        """What height and width must be divisible by: the autoencoder's factor times the transformer's patch."""
        return self.spatial_factor() * self.patch()

    def patch(self) -> int:
        """Latents along each side of a token of the transformer."""
        own = self.packing if self.packing > 1 else self.transformer.config.patch_size
        return int(own if isinstance(own, int) else own[-1])

    def image_seq_len(self) -> int | None:
        """Tokens of a sample, which decide how far some schedulers shift the noise levels; None where they do not."""
        return self.image_tokens()

    def image_tokens(self) -> int:
        """Tokens of a picture, or of one latent frame."""
        return math.prod(side // self.patch() for side in self.latent_shape[-2:])

    def shift_mu(self) -> float | None:
        """How far the noise levels are shifted, in a family with a rule of its own; None leaves it to `sigma_grid`."""
        return None

    def _latent_shape(self) -> tuple[int, ...]:
        settings, factor = self.settings, self.spatial_factor()
        frames: tuple[int, ...] = ()
        if settings.num_frames is not None:
            frames = ((settings.num_frames - 1) // self.frames_multiple() + 1,)
        return (self.latent_channels(), *frames, settings.height // factor, settings.width // factor)

    def latent_channels(self) -> int:
        """Channels of the latents: by default all that go into the transformer."""
        return int(self.transformer.config.in_channels) // self.packing**2

    def sigmas(self) -> Tensor:
        """The noise levels of a run, ``[T + 1]`` float32 on the CPU, from 1 to 0."""
        return self._sigmas.clone()

    # --- sampling ----------------------------------------------------------------------------------------------------

    @property
    def cfg_scale(self) -> float:
        """Weight of the two branches of classifier-free guidance."""
        own = self.settings.true_cfg_scale if self.embedded_guidance else self.settings.guidance_scale
        return 1.0 if own is None else own

    @property
    def guided(self) -> bool:
        """Whether the unconditional branch is computed."""
        return self.cfg_scale > 1

    def condition(self, prompts: Sequence[str | Prompt]) -> Conditioning:
        """Encode prompts, each text and each first frame once: later calls find it in the cache.

        Every text is encoded alone, so that its embedding does not depend on which others came with it.

        Args:
            prompts: P of them; a text, or one with its first frame for generators from image to video.

        Returns:
            P rows on the generator's device.

        Raises:
            ConfigError: without any prompt, for a new one after `release_text_encoders`, or see `first_frames`.
        """
        if isinstance(prompts, str) or not prompts:
            raise ConfigError(f"expected a sequence of at least one prompt, got {prompts!r}")
        frames = self._embed_frames(self.first_frames(prompts))
        texts = [self._text_of(text) for text in [*prompts, *([""] if self.guided else [])]]
        entries = self._embed_all(texts, *self.text_encoders())
        empty = entries.pop() if self.guided else {}
        return Conditioning(_rows(entries), empty, _rows(frames))

    @property
    def encoded_text(self) -> list[Tensor]:
        """What the cache of encoded prompts holds."""
        return self._cache.tensors()

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
        self,
        latents: Tensor,
        sigma: Tensor,
        conditioning: Conditioning,
        *,
        guidance: float | None = None,
        micro_batch: int | None = None,
    ) -> Tensor:
        """The velocity ``noise - clean`` that the transformer predicts, guidance included.

        Rollout and replay both call this. Matrix kernels may round differently for another number of rows, so the two
        are equal to the bit when they use the same ``micro_batch``: a group is the natural one.

        Args:
            latents: ``[B, ...]``.
            sigma: noise level of each row, ``[B]``.
            conditioning: B rows.
            guidance: scale.
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
        latents = self.with_first_frame(latents, conditioning)
        hidden, timestep = self.pack(latents.to(self.dtype)), self.timestep(sigma)
        told = {name: tensor for name, tensor in conditioning.frames.items() if name != KNOWN}
        prompts = {**conditioning.prompts, **told}
        if not self.guided:
            packed = self.forward(hidden, timestep, prompts)
        elif not conditioning.empty:
            raise ConfigError(
                "these prompts were encoded without guidance: encode them with this generator's condition()"
            )
        else:
            branches = self._branches(hidden, timestep, prompts, empty={**conditioning.unconditional(), **told})
            packed = self.combine(*(branch.float() if self.full_precision else branch for branch in branches))
        return without_known(self.unpack(packed).float(), conditioning)

    def _branches(
        self, hidden: Tensor, timestep: Tensor, prompts: Mapping[str, Tensor], *, empty: Mapping[str, Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The conditional and the unconditional velocity."""
        if self.joint_guidance is None:
            return self.forward(hidden, timestep, prompts), self.forward(hidden, timestep, empty)
        texts = (prompts, empty) if self.joint_guidance == "conditional first" else (empty, prompts)
        both = {name: stack_rows([text[name] for text in texts]) for name in prompts}
        twice = hidden.repeat(2, *(1,) * (hidden.ndim - 1))
        first, second = self.forward(twice, timestep.repeat(2), both).chunk(2)
        return (first, second) if self.joint_guidance == "conditional first" else (second, first)

    def timestep(self, sigma: Tensor) -> Tensor:
        """What the transformer is told of the noise level: thousandths by default; both ``[B]``."""
        return sigma * 1000.0

    def pack(self, latents: Tensor) -> Tensor:
        """Latents ``[B, ...]`` in the form that the transformer takes; its own by default."""
        return latents

    def unpack(self, hidden: Tensor) -> Tensor:
        """The inverse of `pack`, for what the transformer returns."""
        return hidden

    def prepare_call(self) -> None:
        """Set what ``__call__`` takes from the pipeline and not from its arguments; nothing by default."""

    def call_latents(self, latents: Tensor) -> Tensor:
        """Latents as the argument of the pipeline's ``__call__``, which is usually what the transformer takes."""
        return self.pack(latents)

    def forward(self, hidden: Tensor, timestep: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        """One call of the transformer.

        Args:
            hidden: packed latents in the transformer's precision, ``[B, ...]``.
            timestep: in the transformer's unit, ``[B]``.
            text: encoded prompts by argument name, ``[B, ...]`` each.

        Returns:
            The velocity, packed like ``hidden``.
        """
        extra = self.extra_arguments(hidden, text)
        return self.transformer(hidden_states=hidden, timestep=timestep, **text, **extra, return_dict=False)[0]

    def extra_arguments(self, hidden: Tensor, text: Mapping[str, Tensor]) -> dict[str, Any]:
        """What else the transformer takes, such as positions; nothing by default. Arguments as those of `forward`."""
        return {}

    def combine(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        """Classifier-free guidance (arXiv 2207.12598): both packed, extrapolated by `cfg_scale`."""
        return unconditional + self.cfg_scale * (conditional - unconditional)

    # --- decoding ----------------------------------------------------------------------------------------------------

    def to_autoencoder(self, latents: Tensor) -> Tensor:
        """Latents as the autoencoder expects them; both ``[B, ...]``."""
        vae = self.pipe.vae
        if "scaling_factor" not in vae.config:
            return denormalise(vae, latents)
        return latents.to(vae.dtype) / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)

    def pixels(self, latents: Tensor) -> Tensor:
        """Latents of `to_autoencoder` as pixels within [-1, 1], ``[B, 3, H, W]`` or ``[B, 3, F, H, W]``."""
        return self.pipe.vae.decode(latents, return_dict=False)[0]

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
        size = chunk or decode_rows(self.sample_shape)
        with self._acting("vae"):
            return self._decode(latents, size)

    def _decode(self, latents: Tensor, size: int) -> NDArray[np.uint8]:
        samples = np.empty((len(latents), *self.sample_shape), dtype=np.uint8)
        for start in range(0, len(latents), size):
            samples[start : start + size] = self.decode_chunk(latents[start : start + size]).cpu().numpy()
        return samples

    def decode_chunk(self, latents: Tensor) -> Tensor:
        """One call of the autoencoder for `decode`.

        Args:
            latents: ``[B, ...]``.

        Returns:
            uint8 ``[B, H, W, 3]`` or ``[B, F, H, W, 3]``, on the autoencoder's device.
        """
        rows = self.to_autoencoder(latents.to(self.pipe.vae.device))
        pixels = self.pixels(rows.to(self.pipe.vae.dtype))
        if self.cut_frames():
            pixels = pixels[:, :, self.cut_frames() :]
        levels = (pixels * 0.5 + 0.5).clamp(0, 1).float().mul(255).round().to(torch.uint8)
        return levels.movedim(1, -1)

    def save(self, folder: str | Path, *, whole: Mapping[str, Any] | None = None) -> Path:
        """Write what trains in the format of diffusers, so that the stock pipeline loads it.

        An adapter becomes ``pytorch_lora_weights.safetensors``, that of a second transformer in the subfolder
        ``transformer_2``; otherwise the whole pipeline is written, with ``generation_config.json``. The folder appears
        only once it is complete.

        Args:
            folder: that does not exist yet.
            whole: what is written in the place of `denoisers` that are cut over several processes, by their name.

        Returns:
            The folder.

        Raises:
            CheckpointError: when the folder exists.
        """
        return self._save(Path(folder), vars(self.settings), whole or {})


def decode_rows(sample_shape: Sequence[int]) -> int:
    """How many samples the autoencoder decodes in one call by default.

    Args:
        sample_shape: of one, ``(H, W, 3)`` or ``(F, H, W, 3)``.
    """
    return max(1, _DECODE_PIXELS // math.prod(sample_shape[:-1]))


def _rows(entries: Sequence[Embedding]) -> dict[str, Tensor]:
    """Embeddings ``[1, ...]`` below each other, by name."""
    return {name: stack_rows([entry[name] for entry in entries]) for name in (entries[0] if entries else ())}


def _defaults(function: Any) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


def _factor(pipe: FlowPipeline, *names: str) -> int:
    """The first of some attributes that a pipeline has."""
    return int(next(getattr(pipe, name) for name in names if hasattr(pipe, name)))


def _check_divides(name: str, value: int, multiple: int) -> None:
    if value % multiple:
        below = value - value % multiple
        raise ConfigError(
            f"{name} must be a multiple of {multiple}, got {value}; the nearest are {below} and {below + multiple}"
        )


def _check_frames(num_frames: int, multiple: int, *, cut: int) -> None:
    """The autoencoder makes one frame, then ``multiple`` for each latent frame; the first ``cut`` are no sample."""
    if (num_frames - 1) % multiple:
        below = max(num_frames - 1 - (num_frames - 1) % multiple, cut) + 1
        raise ConfigError(
            f"num_frames must be 1 more than a multiple of {multiple}, got {num_frames};"
            f" the nearest are {below} and {below + multiple}"
        )
    if num_frames <= cut:
        raise ConfigError(
            f"num_frames counts {cut} frames at the start that this pipeline cuts off: expected at least {cut + 1},"
            f" got {num_frames}"
        )


def check_parts(pipe: FlowPipeline) -> None:
    """Refuse a pipeline without what every flow policy needs.

    Args:
        pipe: the loaded pipeline.

    Raises:
        GeneratorError: when it has no transformer, autoencoder or scheduler, or a scheduler that is not flow matching.
    """
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
