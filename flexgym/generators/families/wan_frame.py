"""Wan 2.1 and 2.2 from a first frame to a video (arXiv 2503.20314)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from flexgym.generators.conditioning import KNOWN, Embedding
from flexgym.generators.families.wan import WanFamily
from flexgym.generators.family import FIRST_FRAME

_CHANNELS = "image"


class WanFrameFamily(WanFamily):
    """Wan from a first frame: it fills channels, Wan 2.1 adds tokens of CLIP; the 5B of Wan 2.2 keeps its latents."""

    pipelines: ClassVar = ("WanImageToVideoPipeline",)
    image_roles: ClassVar = (FIRST_FRAME,)
    call_groups: ClassVar = False

    def latent_channels(self) -> int:
        """Return the channels of the autoencoder."""
        return int(self.pipe.vae.config.z_dim)

    def encode_images(self, images: Mapping[str, Image.Image]) -> Embedding:
        """Return latents of the image alone, or of the image and gray frames after it, below a mask of the image."""
        settings, pipe, frame = self.settings, self.pipe, images[FIRST_FRAME]
        size = (settings.height, settings.width)
        pixels = pipe.video_processor.preprocess(frame, *size).to(self.device, torch.float32)
        latents = torch.zeros(1, *self.latent_shape, device=self.device)
        made = (self.latent_channels(), *size, settings.num_frames, torch.float32, self.device)
        known = pipe.prepare_latents(pixels, 1, *made, latents=latents)[1]
        if pipe.config.expand_timesteps:
            return {KNOWN: known}
        if self.transformer.config.image_dim is None:
            return {_CHANNELS: known.to(self.dtype)}
        tokens = pipe.encode_image(frame, self.device)
        return {_CHANNELS: known.to(self.dtype), "encoder_hidden_states_image": tokens.to(self.dtype)}

    def _call(self, model: Any, hidden: Tensor, timestep: Tensor, *, text: Mapping[str, Tensor]) -> Tensor:
        own = dict(text)
        if _CHANNELS in own:
            hidden = torch.cat([hidden, own.pop(_CHANNELS)], 1)
        return super()._call(model, hidden, timestep, text=own)

    def by_token(self, timestep: Tensor, hidden: Tensor) -> Tensor:
        """Give the tokens of the first latent frame time step 0, where there is no noise."""
        steps = super().by_token(timestep, hidden).clone()
        steps[:, : self.image_tokens()] = 0
        return steps
