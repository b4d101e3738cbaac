"""FLUX.2 and FLUX.2 klein (github.com/black-forest-labs/flux2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from flexgym.generators.families.flux import FluxGenerator


class Flux2Generator(FluxGenerator):
    """Latents are patches of 2x2 already and become tokens one by one; positions have four coordinates."""

    pipelines: ClassVar = ("Flux2Pipeline",)
    encoded: ClassVar = ("encoder_hidden_states", None)
    packing: ClassVar = 1

    def spatial_factor(self) -> int:
        """Pixels for each patch."""
        return 2 * super().spatial_factor()

    def shift_mu(self) -> float:
        """A rule of its own, from the number of tokens and of steps."""
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        return float(compute_empirical_mu(self.image_tokens(), self.settings.num_steps))

    def pack(self, latents: Tensor) -> Tensor:
        """``[B, C, H, W]`` to ``[B, H * W, C]``."""
        return latents.flatten(2).transpose(1, 2)

    def unpack(self, hidden: Tensor) -> Tensor:
        """``[B, H * W, C]`` to ``[B, C, H, W]``."""
        return hidden.transpose(1, 2).reshape(len(hidden), *self.latent_shape)

    def call_latents(self, latents: Tensor) -> Tensor:
        """The pipeline packs what it is given."""
        return latents

    def extra_arguments(self, hidden: Tensor, text: Mapping[str, Tensor]) -> dict[str, Any]:
        """Positions of the tokens, and the scale of guidance."""
        scale = torch.full((len(hidden),), self.settings.guidance_scale, dtype=torch.float32, device=hidden.device)
        return {
            "img_ids": self.pipe._prepare_latent_ids(hidden.new_empty(1, *self.latent_shape)).to(hidden.device),
            "txt_ids": self.pipe._prepare_text_ids(text["encoder_hidden_states"]).to(hidden.device),
            "guidance": scale if self.embedded_guidance else None,
        }

    def to_autoencoder(self, latents: Tensor) -> Tensor:
        """Undo the autoencoder's batch normalisation, then the patches."""
        vae, latents = self.pipe.vae, latents.to(self.pipe.vae.dtype)
        mean = vae.bn.running_mean.view(1, -1, 1, 1).to(latents)
        deviation = torch.sqrt(vae.bn.running_var.view(1, -1, 1, 1) + vae.config.batch_norm_eps).to(latents)
        return self.pipe._unpatchify_latents(latents * deviation + mean)


class Flux2KleinGenerator(Flux2Generator):
    """Classifier-free guidance in place of the input, and none after distillation."""

    pipelines: ClassVar = ("Flux2KleinPipeline",)
    embedded_guidance: ClassVar = False

    @property
    def guided(self) -> bool:
        """Never of distilled weights."""
        return super().guided and not self.pipe.config.is_distilled
