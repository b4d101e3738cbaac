"""ImageReward (arXiv 2304.05977): human preferences between images of one prompt, by BLIP and a linear head."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, BlipConfig, BlipTextModel, BlipVisionModel
from transformers.models.blip.modeling_blip import BlipPreTrainedModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from flexgym.core.errors import ConfigError
from flexgym.core.typed import Count
from flexgym.rewards.aesthetic import score_head
from flexgym.rewards.checkpoints import Dtype, load_model, load_part
from flexgym.rewards.image_model import ImageModelReward, Scorer, at_least_float32
from flexgym.rewards.preprocessing import PillowCrop

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Mean and standard deviation of the head over the authors' validation set, which normalize scores."""
LONGEST_PROMPT = 35
_HINT = (
    "download ImageReward.pt from THUDM/ImageReward and convert it with"
    " `python -m flexgym.rewards.convert image_reward ImageReward.pt folder`"
)


class ImageRewardModel(BlipPreTrainedModel):
    """BLIP's text encoder with cross attention to the image, and a head on its first token.

    Args:
        config: configuration of BLIP, with ``is_decoder`` in its text part, which adds the cross attention.
    """

    config_class = BlipConfig
    main_input_name = "pixel_values"

    def __init__(self, config: BlipConfig) -> None:
        super().__init__(config)
        self.vision_model = BlipVisionModel(config.vision_config)
        self.text_encoder = BlipTextModel(config.text_config, add_pooling_layer=False)
        self.head = score_head(config.text_config.hidden_size)
        self.post_init()

    def forward(
        self, pixel_values: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor
    ) -> torch.Tensor:
        """Return normalized scores ``[N]``.

        Args:
            pixel_values: N images, ``[N, 3, S, S]``.
            input_ids: tokens of the prompt, ``[1, L]``.
            attention_mask: 0 for padding, ``[1, L]``.
        """
        seen = self.vision_model(pixel_values=pixel_values).last_hidden_state
        read = self.text_encoder(
            input_ids=input_ids.expand(len(seen), -1),
            attention_mask=attention_mask.expand(len(seen), -1),
            encoder_hidden_states=seen,
        ).last_hidden_state
        return (self.head(read[:, 0])[:, 0] - MEAN) / STD


def image_processor(side: int) -> CLIPImageProcessorPil:
    """Return the preprocessing of ImageReward: resize the shortest side to ``side`` pixels, crop the center."""
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


class ImageReward(ImageModelReward):
    """Human preference by BLIP, normalized to mean 0 and deviation 1 over the authors' data; about -2 to 2.

    Prompts are truncated to 35 tokens, as by the authors. Videos score the mean over frames.

    Args:
        model: a folder made by ``python -m flexgym.rewards.convert image_reward``, or a hub id of one.
        num_frames: number of uniformly spaced frames of a video that are scored.
        device: name of a torch device; by default the first GPU if there is one.
        dtype: precision of the weights.
        batch_size: maximum number of images in one forward pass.

    Raises:
        CheckpointError: if the model cannot be loaded.
    """

    def __init__(
        self,
        model: str | Path = "",
        *,
        num_frames: Count = 8,
        device: str | None = None,
        dtype: Dtype = "float32",
        batch_size: Count = 32,
    ) -> None:
        self.num_frames, self.batch_size = num_frames, batch_size
        self._tokenizer = load_part(AutoTokenizer, model)
        self.images = PillowCrop(model)
        self.model: nn.Module = load_model(ImageRewardModel, model, device=device, dtype=dtype)

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        """Raise ConfigError unless a model is given."""
        if not settings.get("model"):
            raise ConfigError(f"image_reward: expected a model, got none: {_HINT}")

    def scorer(self, text: str) -> Scorer:
        """Return the function that scores images for a prompt, truncated to 35 tokens."""
        sendable = text.encode("utf-8", "replace").decode()  # half a surrogate pair has no tokens
        tokens = self._tokenizer(
            [sendable], padding="max_length", truncation=True, max_length=LONGEST_PROMPT, return_tensors="pt"
        ).to(self.model.device)

        def scores(pixels: torch.Tensor) -> torch.Tensor:
            return at_least_float32(self.model(pixels, tokens["input_ids"], tokens["attention_mask"]))

        return scores
