"""Flow policies from Qwen-Image pipelines (arXiv 2508.02324)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from flexgym.core.errors import GeneratorError
from flexgym.flow.sigmas import Spacing
from flexgym.generators.conditioning import Embedding, trim_padding
from flexgym.generators.families.flux import FluxFamily
from flexgym.generators.family import FlowPipeline

_MASK = "encoder_hidden_states_mask"


class QwenImageFamily(FluxFamily):
    """Qwen-Image: packed as FLUX.1; texts of any length, guidance that keeps the norm, an autoencoder of videos."""

    pipelines: ClassVar = ("QwenImagePipeline",)
    encoded: ClassVar = ("encoder_hidden_states", _MASK)
    call_names: ClassVar = {"guidance_scale": "true_cfg_scale"}
    embedded_guidance: ClassVar = False
    spacing: ClassVar[Spacing] = "linear"

    @classmethod
    def check_pipeline(cls, pipe: FlowPipeline) -> None:
        """Reject guidance-distilled weights, of which none are published."""
        if pipe.transformer.config.guidance_embeds:
            raise GeneratorError(
                "expected a QwenImagePipeline without guidance_embeds, whose guidance is classifier-free; got one with"
            )

    def embedding(self, outputs: Sequence[Any]) -> Embedding:
        """Return the mask in full, since texts of other lengths may be batched with this one."""
        states, mask = outputs
        return {"encoder_hidden_states": states, _MASK: torch.ones(states.shape[:2]) if mask is None else mask}

    def forward(self, hidden: Tensor, timestep: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        """Leave out the mask for rows of one length, as the pipeline does for one prompt."""
        return super().forward(hidden, timestep, trim_padding(text, _MASK))

    def extra_arguments(self, hidden: Tensor, text: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the tokens of an image along its sides."""
        height, width = (side // self.packing for side in self.latent_shape[-2:])
        return {"img_shapes": [[(1, height, width)]] * len(hidden)}

    def combine(self, conditional: Tensor, unconditional: Tensor, timestep: Tensor) -> Tensor:
        """Apply guidance, then scale every token to its norm without guidance."""
        guided = super().combine(conditional, unconditional, timestep)
        return guided * (torch.norm(conditional, dim=-1, keepdim=True) / torch.norm(guided, dim=-1, keepdim=True))

    def to_autoencoder(self, latents: Tensor) -> Tensor:
        """Return a video of one frame, ``[B, C, 1, H, W]``."""
        return super().to_autoencoder(latents.unsqueeze(2))

    def decode(self, latents: Tensor) -> Tensor:
        """Return the one frame of the decoded video."""
        return super().decode(latents)[:, :, 0]

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode a video of one frame."""
        return super().encode(pixels.unsqueeze(2))

    def from_autoencoder(self, latents: Tensor) -> Tensor:
        """Return the latents of the one frame."""
        return super().from_autoencoder(latents)[:, :, 0]
