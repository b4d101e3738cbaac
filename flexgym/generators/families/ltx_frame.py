"""LTX-Video from a first frame to a video (arXiv 2501.00103)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from PIL import Image
from torch import Tensor

from flexgym.generators.conditioning import KNOWN, Embedding
from flexgym.generators.families.ltx import LTXFamily
from flexgym.generators.family import FIRST_FRAME


class LTXFrameFamily(LTXFamily):
    """LTX-Video from a first frame: its latents are known and stay as they are, at time step 0."""

    pipelines: ClassVar = ("LTXImageToVideoPipeline",)
    image_roles: ClassVar = (FIRST_FRAME,)
    steps_known: ClassVar = False

    def encode_images(self, images: Mapping[str, Image.Image]) -> Embedding:
        """Return the most likely latents of the image; the pipeline draws some near them each time."""
        vae, size = self.pipe.vae, (self.settings.height, self.settings.width)
        pixels = self.pipe.video_processor.preprocess(images[FIRST_FRAME], *size).to(self.device, self.dtype)
        latents = vae.encode(pixels.unsqueeze(2)).latent_dist.mode().float()
        return {KNOWN: self.pipe._normalize_latents(latents, vae.latents_mean, vae.latents_std)}

    def forward(self, hidden: Tensor, timestep: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        """Call the transformer with a time step per token, 0 for those of the first latent frame."""
        frames = self.latent_shape[1] // self._patches()[1]
        steps = timestep[:, None].repeat(1, hidden.shape[1])
        steps[:, : hidden.shape[1] // frames] = 0
        return super().forward(hidden, steps, text)
