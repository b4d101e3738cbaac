"""HunyuanVideo 1.5 (arXiv 2511.18870)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from flexgym.core.errors import GeneratorError
from flexgym.generators.base import FlowGenerator, FlowPipeline

_GUIDER = {"guidance_rescale": 0.0, "use_original_formulation": False, "start": 0.0, "stop": 1.0, "enabled": True}


class HunyuanVideo15Generator(FlowGenerator):
    """Two texts with masks, channels for a picture that stay empty, and guidance by a component of the pipeline."""

    pipelines: ClassVar = ("HunyuanVideo15Pipeline",)
    modality: ClassVar = "video"
    encoded: ClassVar = tuple(
        f"encoder_{name}{of}" for of in ("", "_2") for name in ("hidden_states", "attention_mask")
    )
    spacing: ClassVar = "linear"
    call_groups: ClassVar = False

    @classmethod
    def check_pipeline(cls, pipe: FlowPipeline) -> None:
        """Refuse other kinds of guidance than the classifier-free one of all steps, and mean flows."""
        guider = pipe.guider
        if type(guider).__name__ != "ClassifierFreeGuidance" or {**guider.config, **_GUIDER} != dict(guider.config):
            raise GeneratorError(
                f"expected a ClassifierFreeGuidance with {_GUIDER} as the guider, got {type(guider).__name__} with"
                f" {dict(guider.config)}"
            )
        if pipe.transformer.config.use_meanflow:
            raise GeneratorError("expected a transformer of one noise level, got use_meanflow, which takes two")

    def __init__(self, pipe: FlowPipeline, **arguments: Any) -> None:
        super().__init__(pipe, **arguments)
        pipe.vae.enable_slicing()  # its attention has a mask for one sample

    def call_defaults(self) -> dict[str, Any]:
        """With the scale that the guider has."""
        return {**super().call_defaults(), "guidance_scale": float(self.pipe.guider.config.guidance_scale)}

    def default_size(self) -> tuple[int, int]:
        """The widest of 16 to 9 that has as many pixels as the transformer was trained with."""
        target = self.pipe.target_size
        return self.pipe.video_processor.calculate_default_height_width(height=9, width=16, target_size=target)

    @property
    def guided(self) -> bool:
        """Below 1, too."""
        return not math.isclose(self.cfg_scale, 1.0)

    def prepare_call(self) -> None:
        """The guider holds the scale."""
        self.pipe.guider.guidance_scale = self.cfg_scale

    def latent_channels(self) -> int:
        """Those of the autoencoder: the transformer takes as many for a picture, and one for its mask."""
        return int(self.pipe.vae.config.latent_channels)

    def image_seq_len(self) -> None:
        """Its pipeline never shifts its noise levels by size."""

    def timestep(self, sigma: Tensor) -> Tensor:
        """Thousandths, rounded."""
        return (sigma * 1000.0).to(self.dtype)

    def forward(self, hidden: Tensor, timestep: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        """Latents, then the channels of the picture; zeros where there is none."""
        tokens = hidden.new_zeros(len(hidden), self.pipe.vision_num_semantic_tokens, self.pipe.vision_states_dim)
        empty = hidden.new_zeros(len(hidden), hidden.shape[1] + 1, *hidden.shape[2:])
        own = {"picture": empty, "image_embeds": tokens, **text}
        return super().forward(torch.cat([hidden, own.pop("picture")], 1), timestep, own)
