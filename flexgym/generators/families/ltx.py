"""Flow policies from LTX-Video pipelines (arXiv 2501.00103)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor

from flexgym.generators.family import Family

_FRAME_RATE = 25
"""Frames per second that the pipeline assumes by default; positions are in seconds."""


class LTXFamily(Family):
    """LTX-Video: tokens packed by the pipeline, positions in pixels and seconds; guidance in one call, in float32."""

    pipelines: ClassVar = ("LTXPipeline",)
    modality: ClassVar = "video"
    encoded: ClassVar = ("encoder_hidden_states", "encoder_attention_mask", None, None)
    joint_guidance: ClassVar = "unconditional first"
    full_precision: ClassVar = True
    spacing: ClassVar = "linear"

    def image_seq_len(self) -> int:
        """Return the latents of the video, in whatever patches they are taken."""
        return math.prod(self.latent_shape[1:])

    def _patches(self) -> tuple[int, int]:
        return self.pipe.transformer_spatial_patch_size, self.pipe.transformer_temporal_patch_size

    def pack(self, latents: Tensor) -> Tensor:
        """Pack ``[B, C, F, H, W]`` to ``[B, tokens, D]``."""
        return self.pipe._pack_latents(latents, *self._patches())

    def unpack(self, hidden: Tensor) -> Tensor:
        """Unpack ``[B, tokens, D]`` to ``[B, C, F, H, W]``."""
        (space, time), (frames, height, width) = self._patches(), self.latent_shape[1:]
        return self.pipe._unpack_latents(hidden, frames // time, height // space, width // space, space, time)

    def extra_arguments(self, hidden: Tensor, text: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the size in latents, and their distance in pixels and seconds."""
        frames, height, width = self.latent_shape[1:]
        apart = (self.frames_multiple() / _FRAME_RATE, self.spatial_factor(), self.spatial_factor())
        return {"num_frames": frames, "height": height, "width": width, "rope_interpolation_scale": apart}

    def to_autoencoder(self, latents: Tensor) -> Tensor:
        """Undo the normalization of each channel, as the pipeline does in float32."""
        vae = self.pipe.vae
        scale = vae.config.scaling_factor
        return self.pipe._denormalize_latents(latents, vae.latents_mean, vae.latents_std, scale).to(self.dtype)

    def from_autoencoder(self, latents: Tensor) -> Tensor:
        """Normalize each channel of latents from the autoencoder."""
        vae = self.pipe.vae
        scale = vae.config.scaling_factor
        return self.pipe._normalize_latents(latents.float(), vae.latents_mean, vae.latents_std, scale)

    def decode(self, latents: Tensor) -> Tensor:
        """Decode at time step 0, where the autoencoder takes one."""
        timestep = latents.new_zeros(1) if self.pipe.vae.config.timestep_conditioning else None
        return self.pipe.vae.decode(latents, timestep, return_dict=False)[0]
