"""Flow policies from HunyuanVideo pipelines (arXiv 2412.03603)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from flexgym.generators.family import Family


class HunyuanVideoFamily(Family):
    """HunyuanVideo: guidance is an input, and padded text comes with a mask."""

    pipelines: ClassVar = ("HunyuanVideoPipeline",)
    modality: ClassVar = "video"
    encoded: ClassVar = ("encoder_hidden_states", "pooled_projections", "encoder_attention_mask")
    embedded_guidance: ClassVar = True
    spacing: ClassVar = "linear"
    full_precision: ClassVar = "latents"

    def latent_channels(self) -> int:
        """Return the channels of the autoencoder."""
        return int(self.pipe.vae.config.latent_channels)

    def image_seq_len(self) -> None:
        """Return None: the pipeline never shifts its noise levels by size."""

    def timestep(self, time: Tensor, held: torch.dtype) -> Tensor:
        """Return the time step, rounded to the precision of the latents."""
        return time.to(held)

    def extra_arguments(self, hidden: Tensor, text: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the guidance scale, in thousandths, where the transformer takes one."""
        if not self.transformer.config.guidance_embeds:
            return {}
        scale = torch.tensor([self.settings.guidance_scale] * len(hidden), dtype=self.dtype, device=hidden.device)
        return {"guidance": scale * 1000.0}
