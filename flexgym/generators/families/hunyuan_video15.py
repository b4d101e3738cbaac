"""HunyuanVideo 1.5 (arXiv 2511.18870)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from flexgym.core.errors import GeneratorError
from flexgym.generators.family import Family, FlowPipeline

_GUIDER = {"guidance_rescale": 0.0, "use_original_formulation": False, "start": 0.0, "stop": 1.0, "enabled": True}
_TEXT = ("hidden_states", "attention_mask")


class HunyuanVideo15Family(Family):
    """HunyuanVideo 1.5: two texts with masks, empty channels for an image, guidance by a component of the pipeline."""

    pipelines: ClassVar = ("HunyuanVideo15Pipeline",)
    modality: ClassVar = "video"
    encoded: ClassVar = tuple(f"encoder_{name}{of}" for of in ("", "_2") for name in _TEXT)
    spacing: ClassVar = "linear"
    call_groups: ClassVar = False

    @classmethod
    def check_pipeline(cls, pipe: FlowPipeline) -> None:
        """Reject mean flows, and guidance other than classifier-free guidance in all steps."""
        guider = pipe.guider
        if type(guider).__name__ != "ClassifierFreeGuidance" or {**guider.config, **_GUIDER} != dict(guider.config):
            raise GeneratorError(
                f"expected a ClassifierFreeGuidance with {_GUIDER} as the guider, got {type(guider).__name__} with"
                f" {dict(guider.config)}"
            )
        if pipe.transformer.config.use_meanflow:
            raise GeneratorError("expected a transformer of one noise level, got use_meanflow, which takes two")

    @classmethod
    def set_up(cls, pipe: FlowPipeline) -> None:
        """Decode samples one by one: the attention of the autoencoder has a mask for one sample."""
        pipe.vae.enable_slicing()

    @classmethod
    def call_defaults(cls, pipe: FlowPipeline) -> dict[str, Any]:
        """Return the defaults, with the scale that the guider has."""
        return {**super().call_defaults(pipe), "guidance_scale": float(pipe.guider.config.guidance_scale)}

    @classmethod
    def default_size(cls, pipe: FlowPipeline) -> tuple[int, int]:
        """Return the widest size of 16 to 9 with as many pixels as the transformer was trained with."""
        return pipe.video_processor.calculate_default_height_width(height=9, width=16, target_size=pipe.target_size)

    @property
    def guided(self) -> bool:
        """True for every scale but 1, below it as well."""
        return not math.isclose(self.cfg_scale, 1.0)

    def prepare_call(self) -> None:
        """Set the scale of the guider."""
        self.pipe.guider.guidance_scale = self.cfg_scale

    def latent_channels(self) -> int:
        """Return those of the autoencoder: the transformer takes as many for an image, and one for its mask."""
        return int(self.pipe.vae.config.latent_channels)

    def image_seq_len(self) -> None:
        """Return None: the pipeline never shifts its noise levels by size."""

    def timestep(self, time: Tensor, held: torch.dtype) -> Tensor:
        """Return the time step, rounded to the transformer's precision."""
        return time.to(held)

    def forward(self, hidden: Tensor, timestep: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        """Append the channels of the image to the latents; zeros where there is none."""
        rows, channels, *size = hidden.shape
        tokens = hidden.new_zeros(rows, self.pipe.vision_num_semantic_tokens, self.pipe.vision_states_dim)
        own = {"image": hidden.new_zeros(rows, channels + 1, *size), "image_embeds": tokens, **text}
        return super().forward(torch.cat([hidden, own.pop("image")], 1), timestep, own)
