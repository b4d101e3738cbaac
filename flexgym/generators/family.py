"""Families of pipelines: how one kind of diffusers pipeline does each thing that a flow policy needs."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, TypeAlias

import torch
from PIL import Image
from torch import Tensor, nn

from flexgym.core.errors import ConfigError
from flexgym.flow.sigmas import Spacing
from flexgym.generators.channels import denormalize, normalize
from flexgym.generators.checks import check_frames, check_side
from flexgym.generators.conditioning import Conditioning, Embedding
from flexgym.generators.sampling import Sampling, argument_defaults, call_defaults

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

FlowPipeline: TypeAlias = "DiffusionPipeline"
FIRST_FRAME = "first_frame"
"""Role of the image that a video begins with, and the field of `Prompt` that holds it."""


class Family:
    """One kind of diffusers pipeline under given sampling settings. Immutable; the pipeline's own modules do the work.

    This class fits pipelines without peculiarities. A subclass in `flexgym.generators.families` overrides class
    attributes, and methods where its pipeline does something else; docs/adding_a_generator.md lists them as questions.

    Args:
        pipe: the loaded pipeline.
        settings: how it samples.

    Attributes:
        pipe: the pipeline.
        settings: how it samples.
        transformer: the module that predicts the velocity; where several do, the one for the highest noise.
        dtype: precision of the transformer when it was loaded.
        latent_shape: shape of one sample's latents.
        sample_shape: shape of one decoded sample, ``(H, W, 3)`` or ``(F, H, W, 3)``.

    Raises:
        ConfigError: for settings that the pipeline cannot have.
    """

    pipelines: ClassVar[tuple[str, ...]] = ()
    """Names of the diffusers classes that the family serves."""
    modality: ClassVar[str] = "image"
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    """Layers that get an adapter when the caller names none."""

    encoded: ClassVar[tuple[str | None, ...]] = ("encoder_hidden_states",)
    """What the transformer calls each output of ``encode_prompt``; None for outputs that are not used."""
    image_roles: ClassVar[tuple[str, ...]] = ()
    """Conditioning images that each prompt must carry, such as `FIRST_FRAME`; fields of `Prompt`."""
    text_sees_images: ClassVar[bool] = False
    """``encode_prompt`` reads the images together with the text; a text without images is read with black ones."""
    noise_share: ClassVar[float] = 1.0
    """Share of noise in the initial latents; the remainder is the first tensor of `encode_images`, in every frame."""

    joint_guidance: ClassVar[Literal["unconditional first", "conditional first"] | None] = None
    """Order of the two branches of guidance in one transformer call; None makes a call for each."""
    embedded_guidance: ClassVar[bool] = False
    """``guidance_scale`` is an input of the transformer; ``true_cfg_scale`` then weighs the two branches."""
    full_precision: ClassVar[bool | Literal["latents"]] = False
    """The first latents, guidance and the step are float32 when the transformer is not; ``"latents"``: those alone."""
    steps_known: ClassVar[bool] = True
    """The scheduler also steps the latents of a known first frame; otherwise it steps the later frames, unpacked."""
    packing: ClassVar[int] = 1
    """Latents along each side of a token, where the pipeline packs them and the transformer does not."""
    spacing: ClassVar[Spacing] = "scheduler"
    """Spacing of the noise levels before they are shifted, see `sigma_grid`."""

    call_names: ClassVar[Mapping[str, str]] = {}
    """Names that ``__call__`` has for settings of `Sampling`, where they differ."""
    call_options: ClassVar[Mapping[str, Any]] = {}
    """Further arguments of ``__call__`` under which it does what the family does."""
    call_groups: ClassVar[bool] = True
    """``__call__`` can make several samples of a prompt; otherwise it is given the prompt several times."""
    default_side: ClassVar[int | None] = None
    """Height and width in pixels that ``__call__`` takes when given none, where only its code says so."""

    def __init__(self, pipe: FlowPipeline, settings: Sampling) -> None:
        self.pipe = pipe
        self.transformer: Any = pipe.transformer
        self.dtype: torch.dtype = pipe.transformer.dtype
        self._settle(settings)

    @classmethod
    def check_pipeline(cls, pipe: FlowPipeline) -> None:
        """Reject a pipeline of the family's class that works in another way; called before anything else.

        Args:
            pipe: the loaded pipeline.

        Raises:
            GeneratorError: naming what was expected and what came.
        """

    @classmethod
    def set_up(cls, pipe: FlowPipeline) -> None:
        """Prepare a pipeline once after loading; nothing by default."""

    # --- settings and shapes -----------------------------------------------------------------------------------------

    @classmethod
    def call_defaults(cls, pipe: FlowPipeline) -> dict[str, Any]:
        """Return the settings that ``__call__`` has by default, by the names of `Sampling`."""
        defaults = argument_defaults(pipe.__call__)
        if defaults.get("height") is None:
            height, width = cls.default_size(pipe)
            defaults.update(height=height, width=width)
        return call_defaults(defaults, cls.call_names)

    @classmethod
    def default_size(cls, pipe: FlowPipeline) -> tuple[int | None, int | None]:
        """Return the height and width in pixels that ``__call__`` takes when given none."""
        side = cls.default_side
        if hasattr(pipe, "default_sample_size"):
            side = pipe.default_sample_size * pipe.vae_scale_factor
        return side, side

    def sampling(self, settings: Sampling) -> Self:
        """Return the same family under other settings.

        Raises:
            ConfigError: for settings that the pipeline cannot have.
        """
        family = copy.copy(self)
        family._settle(settings)
        return family

    def guided_by(self, scale: float) -> Self:
        """Return the same family under another ``guidance_scale``."""
        family = copy.copy(self)
        family.settings = replace(self.settings, guidance_scale=scale)
        return family

    def _settle(self, settings: Sampling) -> None:
        self._check(settings)
        self.settings = settings
        self.latent_shape: tuple[int, ...] = self._latent_shape()
        frames = () if settings.num_frames is None else (settings.num_frames - self.cut_frames(),)
        self.sample_shape: tuple[int, ...] = (*frames, settings.height, settings.width, 3)

    def _check(self, settings: Sampling) -> None:
        if self.modality == "video" and settings.num_frames is None:
            raise ConfigError(f"{self.name} makes videos: pass num_frames")
        if self.modality == "image" and settings.num_frames is not None:
            raise ConfigError(f"{self.name} makes images: num_frames={settings.num_frames} does not apply")
        if settings.true_cfg_scale is not None and not (
            self.embedded_guidance and "true_cfg_scale" in argument_defaults(self.pipe.__call__)
        ):
            raise ConfigError(f"{self.name} has one weight of guidance: pass guidance_scale, not true_cfg_scale")
        if settings.guidance_scale_2 is not None and len(self.denoisers()) == 1:
            raise ConfigError(
                f"{self.name} has one transformer here: guidance_scale_2={settings.guidance_scale_2} is for pipelines"
                " with a second one for low noise, such as Wan 2.2 A14B"
            )
        if settings.negative_prompt and "negative_prompt" not in argument_defaults(self.pipe.__call__):
            raise ConfigError(f"{self.name} takes no negative_prompt in its own call: leave it out")
        for side in ("height", "width"):
            check_side(side, getattr(settings, side), self.size_multiple())
        if settings.num_frames is not None:
            check_frames(settings.num_frames, self.frames_multiple(), cut=self.cut_frames())

    def _latent_shape(self) -> tuple[int, ...]:
        settings, factor = self.settings, self.spatial_factor()
        frames: tuple[int, ...] = ()
        if settings.num_frames is not None:
            frames = ((settings.num_frames - 1) // self.frames_multiple() + 1,)
        return (self.latent_channels(), *frames, settings.height // factor, settings.width // factor)

    @property
    def name(self) -> str:
        """The class name of the pipeline."""
        return type(self.pipe).__name__

    @property
    def device(self) -> torch.device:
        """The device of the transformer."""
        device: torch.device = next(self.transformer.parameters()).device
        return device

    def denoisers(self) -> dict[str, nn.Module]:
        """Return all modules that predict the velocity, by their name in the pipeline; all of them train.

        Where there are several, one noise level uses one of them: the others then get no gradient.
        """
        return {"transformer": self.transformer}

    def spatial_factor(self) -> int:
        """Return the pixels per latent, along height and width."""
        return _factor(self.pipe, "vae_scale_factor_spatial", "vae_spatial_compression_ratio", "vae_scale_factor")

    def frames_multiple(self) -> int:
        """Return the frames per latent frame after the first."""
        return _factor(self.pipe, "vae_scale_factor_temporal", "vae_temporal_compression_ratio")

    def cut_frames(self) -> int:
        """Return the number of frames at the start of a decoded video that are no part of the sample."""
        return 0

    def size_multiple(self) -> int:
        """Return what height and width must be divisible by: the autoencoder's factor times the transformer's patch."""
        return self.spatial_factor() * self.patch()

    def patch(self) -> int:
        """Return the latents along each side of a token of the transformer."""
        own = self.packing if self.packing > 1 else self.transformer.config.patch_size
        return int(own if isinstance(own, int) else own[-1])

    def latent_channels(self) -> int:
        """Return the channels of the latents; by default all that go into the transformer."""
        return int(self.transformer.config.in_channels) // self.packing**2

    # --- noise levels ------------------------------------------------------------------------------------------------

    def image_seq_len(self) -> int | None:
        """Return the tokens by which the scheduler shifts the noise levels; None where it does not."""
        return self.image_tokens()

    def image_tokens(self) -> int:
        """Return the tokens of an image, or of one latent frame."""
        return math.prod(side // self.patch() for side in self.latent_shape[-2:])

    def shift_mu(self) -> float | None:
        """Return the shift of the noise levels, in a family with a rule of its own; None leaves it to `sigma_grid`."""
        return None

    # --- text and images ---------------------------------------------------------------------------------------------

    def encode_text(self, text: str, *, negative: bool = False, **options: Any) -> Embedding:
        """Encode one text by the pipeline's ``encode_prompt``.

        Args:
            text: the text.
            negative: it is that of the unconditional branch, as the empty one always is.
            options: further arguments of ``encode_prompt``.

        Returns:
            Arguments of the transformer, each ``[1, ...]``, on its device and in its precision.
        """
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
        outputs = self.pipe.encode_prompt(
            **{**arguments, **self.encode_options(text, negative=negative or not text), **options}
        )
        return {name: tensor.to(self.device, self.dtype) for name, tensor in self.embedding(outputs).items()}

    def encode_options(self, text: str, *, negative: bool) -> dict[str, Any]:
        """Return further arguments of ``encode_prompt`` for a text, or for that of the unconditional branch."""
        return {}

    def embedding(self, outputs: Sequence[Any]) -> Embedding:
        """Name the outputs of ``encode_prompt`` for one text as arguments of the transformer, each ``[1, ...]``."""
        return {name: output for name, output in zip(self.encoded, outputs, strict=False) if name is not None}

    def encode_images(self, images: Mapping[str, Image.Image]) -> Embedding:
        """Encode the conditioning images of one prompt, in a family that takes them.

        Args:
            images: RGB images by role, at the size of the sample.

        Returns:
            Tensors ``[1, ...]`` by argument name. Under `flexgym.generators.conditioning.KNOWN` float32
            ``[1, C, 1, H, W]`` where the pipeline keeps the first latents as they are; these are not generated.
        """
        raise NotImplementedError(f"{type(self).__name__} names image_roles and must override encode_images")

    def image_options(self, prompted: bool) -> dict[str, Any]:
        """Return further arguments of ``encode_prompt`` where it reads images, as JSON values.

        Args:
            prompted: the images are those of a prompt, not black ones.
        """
        return {}

    # --- velocity ----------------------------------------------------------------------------------------------------

    @property
    def cfg_scale(self) -> float:
        """The weight of the two branches of classifier-free guidance."""
        own = self.settings.true_cfg_scale if self.embedded_guidance else self.settings.guidance_scale
        return 1.0 if own is None else own

    @property
    def guided(self) -> bool:
        """True where the unconditional branch is computed."""
        return self.cfg_scale > 1

    def timestep(self, time: Tensor, held: torch.dtype) -> Tensor:
        """Convert time steps ``[B]`` of the scheduler to the unit of the transformer; unchanged by default.

        Args:
            time: float32, see `flexgym.generators.levels.time_steps`.
            held: precision of the latents that ``__call__`` holds between the steps.
        """
        return time

    def pack(self, latents: Tensor) -> Tensor:
        """Convert latents ``[B, ...]`` to the form that the transformer takes; unchanged by default."""
        return latents

    def unpack(self, hidden: Tensor) -> Tensor:
        """Undo `pack` for the output of the transformer."""
        return hidden

    def forward(self, hidden: Tensor, timestep: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        """Call the transformer once.

        Args:
            hidden: packed latents in the transformer's precision, ``[B, ...]``.
            timestep: in the transformer's unit, ``[B]``.
            text: encoded prompts and images by argument name, ``[B, ...]`` each.

        Returns:
            The velocity, packed like ``hidden``.
        """
        extra = self.extra_arguments(hidden, text)
        velocity: Tensor = self.transformer(
            hidden_states=hidden, timestep=timestep, **text, **extra, return_dict=False
        )[0]
        return velocity

    def extra_arguments(self, hidden: Tensor, text: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return further arguments of the transformer, such as positions; none by default. Arguments as `forward`."""
        return {}

    def combine(self, conditional: Tensor, unconditional: Tensor, timestep: Tensor) -> Tensor:
        """Apply classifier-free guidance (arXiv 2207.12598) to two packed velocities, by `cfg_scale`.

        Args:
            conditional: ``[B, ...]``.
            unconditional: of the same shape.
            timestep: in the transformer's unit, ``[B]``, for families whose scale depends on it.
        """
        return unconditional + self.cfg_scale * (conditional - unconditional)

    # --- autoencoder -------------------------------------------------------------------------------------------------

    def to_autoencoder(self, latents: Tensor) -> Tensor:
        """Scale latents ``[B, ...]`` as the autoencoder decodes them."""
        vae = self.pipe.vae
        if "scaling_factor" not in vae.config:
            return denormalize(vae, latents)
        scaled: Tensor = latents.to(vae.dtype) / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)
        return scaled

    def from_autoencoder(self, latents: Tensor) -> Tensor:
        """Undo `to_autoencoder` for latents that the autoencoder encoded, in float32."""
        config, latents = self.pipe.vae.config, latents.float()
        if "scaling_factor" not in config:
            return normalize(self.pipe.vae, latents)
        return (latents - (config.get("shift_factor") or 0.0)) * config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents of `to_autoencoder` to pixels within [-1, 1], ``[B, 3, H, W]`` or ``[B, 3, F, H, W]``."""
        pixels: Tensor = self.pipe.vae.decode(latents, return_dict=False)[0]
        return pixels

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode pixels within [-1, 1] to the most likely latents, as the autoencoder scales them."""
        encoded = self.pipe.vae.encode(pixels, return_dict=False)[0]
        latents: Tensor = encoded if isinstance(encoded, Tensor) else encoded.mode()
        return latents

    # --- the pipeline's own call, which tests compare with -----------------------------------------------------------

    def prepare_call(self) -> None:
        """Set what ``__call__`` takes from the pipeline and not from its arguments; nothing by default."""

    def call_latents(self, latents: Tensor) -> Tensor:
        """Convert latents to the argument of ``__call__``; by default to what the transformer takes."""
        return self.pack(latents)

    def call_inputs(self, images: Mapping[str, Image.Image], rows: Conditioning) -> dict[str, Any]:
        """Return arguments of ``__call__`` for conditioning images, and what replaces its other arguments then.

        Args:
            images: of all rows, by role; empty for generators from text alone.
            rows: encoded prompts, for a call that takes them and would encode several otherwise than one.
        """
        return {"image": next(iter(images.values()), None)}


def _factor(pipe: FlowPipeline, *names: str) -> int:
    """Return the first of some attributes that a pipeline has."""
    return int(next(getattr(pipe, name) for name in names if hasattr(pipe, name)))
