"""HunyuanVideo from a first frame to a video (arXiv 2412.03603)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import pad

from flexgym.core.errors import GeneratorError
from flexgym.generators.conditioning import KNOWN, Conditioning, Embedding
from flexgym.generators.families.hunyuan_video import HunyuanVideoFamily
from flexgym.generators.family import FIRST_FRAME, FlowPipeline

_CHANNELS = "image"
_INTERLEAVE = {"latent_concat": 2, "token_replace": 4}  # one of so many tokens of the image reaches the transformer
_EMBEDDED = ("prompt_embeds", "pooled_prompt_embeds", "prompt_attention_mask")  # what the call names its `encoded`


class HunyuanVideoFrameFamily(HunyuanVideoFamily):
    """HunyuanVideo from a first frame: Llava reads text and image; the image's latents are kept or appended."""

    pipelines: ClassVar = ("HunyuanVideoImageToVideoPipeline",)
    image_roles: ClassVar = (FIRST_FRAME,)
    text_sees_images: ClassVar = True
    noise_share: ClassVar = 0.999
    call_groups: ClassVar = False
    steps_known: ClassVar = False

    @classmethod
    def check_pipeline(cls, pipe: FlowPipeline) -> None:
        """Reject a transformer that is conditioned on text alone."""
        kind = pipe.transformer.config.image_condition_type
        if kind not in _INTERLEAVE:
            raise GeneratorError(f"expected a transformer with image_condition_type {[*_INTERLEAVE]}, got {kind!r}")

    @property
    def _kind(self) -> str:
        return str(self.pipe.transformer.config.image_condition_type)

    def cut_frames(self) -> int:
        """Return 4 where the image fills channels."""
        return 4 if self._kind == "latent_concat" else 0

    def timestep(self, time: Tensor, held: torch.dtype) -> Tensor:
        """Return it rounded with the latents, which stay in float32 where known ones are joined to them."""
        return time if self._kind == "token_replace" else super().timestep(time, held)

    def encode_images(self, images: Mapping[str, Image.Image]) -> Embedding:
        """Return the most likely latents of the image, in float32."""
        vae, size = self.pipe.vae, (self.settings.height, self.settings.width)
        pixels = self.pipe.video_processor.preprocess(images[FIRST_FRAME], *size).to(self.device, vae.dtype)
        latents = vae.encode(pixels.unsqueeze(2)).latent_dist.mode().float() * vae.config.scaling_factor
        return {KNOWN if self._kind == "token_replace" else _CHANNELS: latents}

    def image_options(self, prompted: bool) -> dict[str, Any]:
        """Return how many image tokens are kept; for the empty text the call keeps every second with either kind."""
        return {"image_embed_interleave": _INTERLEAVE[self._kind] if prompted else 2}

    def forward(self, hidden: Tensor, timestep: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        """Append the channels of the image and its mask where there are any, zeros for later frames."""
        own = dict(text)
        if _CHANNELS in own:
            image = own.pop(_CHANNELS)
            first = torch.cat([image, torch.ones_like(image[:, :1])], 1)
            hidden = torch.cat([hidden, pad(first, (0, 0, 0, 0, 0, hidden.shape[2] - 1)).to(hidden)], 1)
        return super().forward(hidden, timestep, own)

    def call_inputs(self, images: Mapping[str, Image.Image], rows: Conditioning) -> dict[str, Any]:
        """Pass several texts encoded alone: Llava rounds by rows, and the call has one black image for all."""
        given: dict[str, Any] = {"image": [images[FIRST_FRAME]] * len(rows)}
        if len(rows) > 1:
            for kind, texts in (("", rows.prompts), ("negative_", rows.unconditional())):
                given |= {kind + name: texts.get(own) for name, own in zip(_EMBEDDED, self.encoded, strict=True)}
        return given if len(rows) == 1 else {**given, "prompt": None}
