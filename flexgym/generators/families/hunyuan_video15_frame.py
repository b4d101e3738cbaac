"""HunyuanVideo 1.5 from a first frame to a video (arXiv 2511.18870)."""

from __future__ import annotations

from typing import ClassVar

import torch
from PIL import Image

from flexgym.generators.conditioning import Embedding
from flexgym.generators.families.hunyuan_video15 import HunyuanVideo15Generator


class HunyuanVideo15FrameGenerator(HunyuanVideo15Generator):
    """The picture fills its channels of the first latent frame, and an encoder of its own describes it."""

    pipelines: ClassVar = ("HunyuanVideo15ImageToVideoPipeline",)
    call_groups: ClassVar = True
    takes_first_frame: ClassVar = True

    def encode_frame(self, picture: Image.Image) -> Embedding:
        """Latents of the first frame, zeros for the others, and a mask of the first; then the tokens of the encoder."""
        latents = torch.zeros(1, *self.latent_shape, dtype=self.dtype, device=self.device)
        size = (self.settings.height, self.settings.width, self.dtype, self.device)
        picture_latents, mask = self.pipe.prepare_cond_latents_and_mask(latents, picture, 1, *size)
        tokens = self.pipe.encode_image(picture, 1, self.device, self.dtype)
        return {"picture": torch.cat([picture_latents, mask], 1), "image_embeds": tokens}
