"""FLUX.2 and FLUX.2 klein (github.com/black-forest-labs/flux2)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from flexgym.generators.families.flux import FluxFamily


class Flux2Family(FluxFamily):
    """FLUX.2: latents are patches of 2x2 already and become tokens one by one; positions have four coordinates."""

    pipelines: ClassVar = ("Flux2Pipeline",)
    encoded: ClassVar = ("encoder_hidden_states", None)
    packing: ClassVar = 1

    def spatial_factor(self) -> int:
        """Return the pixels per patch."""
        return 2 * super().spatial_factor()

    def shift_mu(self) -> float:
        """Compute the shift from the number of tokens and of steps."""
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        return float(compute_empirical_mu(self.image_tokens(), self.settings.num_steps))

    def pack(self, latents: Tensor) -> Tensor:
        """Pack ``[B, C, H, W]`` to ``[B, H * W, C]``."""
        return latents.flatten(2).transpose(1, 2)

    def unpack(self, hidden: Tensor) -> Tensor:
        """Unpack ``[B, H * W, C]`` to ``[B, C, H, W]``."""
        return hidden.transpose(1, 2).reshape(len(hidden), *self.latent_shape)

    def call_latents(self, latents: Tensor) -> Tensor:
        """Return the latents unpacked, since the pipeline packs them."""
        return latents

    def extra_arguments(self, hidden: Tensor, text: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the positions of the tokens, and the guidance scale."""
        scale = torch.full((len(hidden),), self.settings.guidance_scale, dtype=torch.float32, device=hidden.device)
        return {
            "img_ids": self.pipe._prepare_latent_ids(hidden.new_empty(1, *self.latent_shape)).to(hidden.device),
            "txt_ids": self.pipe._prepare_text_ids(text["encoder_hidden_states"]).to(hidden.device),
            "guidance": scale if self.embedded_guidance else None,
        }

    def to_autoencoder(self, latents: Tensor) -> Tensor:
        """Undo the autoencoder's batch normalization, then the patches."""
        latents = latents.to(self.pipe.vae.dtype)
        mean, deviation = self._statistics(latents)
        return self.pipe._unpatchify_latents(latents * deviation + mean)

    def from_autoencoder(self, latents: Tensor) -> Tensor:
        """Make patches, then apply the batch normalization."""
        patches = self.pipe._patchify_latents(latents.float())
        mean, deviation = self._statistics(patches)
        return (patches - mean) / deviation

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        norm, epsilon = self.pipe.vae.bn, self.pipe.vae.config.batch_norm_eps
        mean = norm.running_mean.view(1, -1, 1, 1).to(latents)
        return mean, torch.sqrt(norm.running_var.view(1, -1, 1, 1) + epsilon).to(latents)


class Flux2KleinFamily(Flux2Family):
    """FLUX.2 klein: classifier-free guidance in place of the input, and none after distillation."""

    pipelines: ClassVar = ("Flux2KleinPipeline",)
    embedded_guidance: ClassVar = False

    @property
    def guided(self) -> bool:
        """True for weights that are not distilled, above a scale of 1."""
        return super().guided and not self.pipe.config.is_distilled
