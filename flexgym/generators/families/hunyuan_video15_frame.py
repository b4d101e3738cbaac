"""HunyuanVideo 1.5 from a first frame to a video (arXiv 2511.18870)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from PIL import Image

from flexgym.generators.conditioning import Embedding
from flexgym.generators.families.hunyuan_video15 import HunyuanVideo15Family
from flexgym.generators.family import FIRST_FRAME


class HunyuanVideo15FrameFamily(HunyuanVideo15Family):
    """HunyuanVideo 1.5 from a first frame: the image fills channels, and SigLIP describes it."""

    pipelines: ClassVar = ("HunyuanVideo15ImageToVideoPipeline",)
    call_groups: ClassVar = True
    image_roles: ClassVar = (FIRST_FRAME,)

    def encode_images(self, images: Mapping[str, Image.Image]) -> Embedding:
        """Return latents of the first frame, zeros for later ones, a mask of the first; and the tokens of SigLIP."""
        latents = torch.zeros(1, *self.latent_shape, dtype=self.dtype, device=self.device)
        size = (self.settings.height, self.settings.width, self.dtype, self.device)
        frame = images[FIRST_FRAME]
        known, mask = self.pipe.prepare_cond_latents_and_mask(latents, frame, 1, *size)
        tokens = self.pipe.encode_image(frame, 1, self.device, self.dtype)
        return {"image": torch.cat([known, mask], 1), "image_embeds": tokens}
