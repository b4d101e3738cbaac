"""LTX-Video from a first frame to a video (arXiv 2501.00103)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from PIL import Image
from torch import Tensor

from flexgym.generators.conditioning import Embedding
from flexgym.generators.families.ltx import LTXGenerator
from flexgym.generators.frames import KNOWN


class LTXFrameGenerator(LTXGenerator):
    """The latents of the first frame are known and stay as they are, at time step 0."""

    pipelines: ClassVar = ("LTXImageToVideoPipeline",)
    takes_first_frame: ClassVar = True

    def encode_frame(self, picture: Image.Image) -> Embedding:
        """The likeliest latents of the picture; the pipeline draws some from about there each time."""
        vae, size = self.pipe.vae, (self.settings.height, self.settings.width)
        pixels = self.pipe.video_processor.preprocess(picture, *size).to(self.device, self.dtype)
        latents = vae.encode(pixels.unsqueeze(2)).latent_dist.mode().float()
        return {KNOWN: self.pipe._normalize_latents(latents, vae.latents_mean, vae.latents_std)}

    def forward(self, hidden: Tensor, timestep: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        """A time step for each token, 0 for those of the first latent frame."""
        frames = self.latent_shape[1] // self._patches()[1]
        steps = timestep[:, None].repeat(1, hidden.shape[1])
        steps[:, : hidden.shape[1] // frames] = 0
        return super().forward(hidden, steps, text)
