"""Qwen-Image (arXiv 2508.02324)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from flexgym.core.errors import GeneratorError
from flexgym.generators.base import FlowPipeline
from flexgym.generators.conditioning import Embedding, trim_padding
from flexgym.generators.families.flux import FluxGenerator

_MASK = "encoder_hidden_states_mask"


class QwenImageGenerator(FluxGenerator):
    """Packed as FLUX.1; texts of their own length, guidance that keeps the norm, and an autoencoder of videos."""

    pipelines: ClassVar = ("QwenImagePipeline",)
    encoded: ClassVar = ("encoder_hidden_states", _MASK)
    call_names: ClassVar = {"guidance_scale": "true_cfg_scale"}
    embedded_guidance: ClassVar = False

    @classmethod
    def check_pipeline(cls, pipe: FlowPipeline) -> None:
        """Refuse weights distilled with guidance, of which none are published."""
        if pipe.transformer.config.guidance_embeds:
            raise GeneratorError(
                "expected a QwenImagePipeline without guidance_embeds, whose guidance is classifier-free; got one with"
            )

    def embedding(self, outputs: Sequence[Any]) -> Embedding:
        """The mask is written out, since texts of other lengths may stand beside this one."""
        states, mask = outputs
        return {"encoder_hidden_states": states, _MASK: torch.ones(states.shape[:2]) if mask is None else mask}

    def forward(self, hidden: Tensor, timestep: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        """Rows of one length go without a mask, as those of one prompt do in the pipeline."""
        return super().forward(hidden, timestep, trim_padding(text, _MASK))

    def extra_arguments(self, hidden: Tensor, text: Mapping[str, Tensor]) -> dict[str, Any]:
        """How many tokens a picture has along its sides."""
        height, width = (side // self.packing for side in self.latent_shape[-2:])
        return {"img_shapes": [[(1, height, width)]] * len(hidden)}

    def combine(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        """Guidance, then every token as long as it was without."""
        guided = super().combine(conditional, unconditional)
        return guided * (torch.norm(conditional, dim=-1, keepdim=True) / torch.norm(guided, dim=-1, keepdim=True))

    def to_autoencoder(self, latents: Tensor) -> Tensor:
        """A video of one frame, ``[B, C, 1, H, W]``."""
        return super().to_autoencoder(latents.unsqueeze(2))

    def pixels(self, latents: Tensor) -> Tensor:
        """That frame."""
        return super().pixels(latents)[:, :, 0]
