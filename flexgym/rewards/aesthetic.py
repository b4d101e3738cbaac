"""LAION aesthetic predictor (improved-aesthetic-predictor, 2022): how people rate an image, whatever its prompt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import CLIPModel

from flexgym.core.errors import ConfigError
from flexgym.core.typed import Count
from flexgym.reward import KnownPair
from flexgym.rewards.checkpoints import Dtype, load_model, load_weights
from flexgym.rewards.image_model import ImageModelReward, Scorer, at_least_float32
from flexgym.rewards.known import landscape_and_noise
from flexgym.rewards.preprocessing import PillowCrop

_HINT = (
    "Convert the published sac+logos+ava1-l14-linearMSE.pth with"
    " `python -m flexgym.rewards.convert aesthetic sac+logos+ava1-l14-linearMSE.pth aesthetic.safetensors`"
)


def score_head(width: int) -> nn.Sequential:
    """Return the head of the aesthetic predictor and of ImageReward: five linear layers without activations.

    The dropouts of training are kept, since the names of the published weights count them.

    Args:
        width: number of input features.
    """
    return nn.Sequential(
        nn.Linear(width, 1024),
        nn.Dropout(0.2),
        nn.Linear(1024, 128),
        nn.Dropout(0.2),
        nn.Linear(128, 64),
        nn.Dropout(0.1),
        nn.Linear(64, 16),
        nn.Linear(16, 1),
    )


class Aesthetic(ImageModelReward):
    """Predicted rating of an image, about 1 to 10, by a linear head on CLIP's normalized image features.

    Source: christophschuhmann/improved-aesthetic-predictor, the head of LAION-Aesthetics V2. The prompt is ignored.
    Videos score the mean over frames.

    Args:
        head: safetensors file of the head, with the weight names of the published one (``layers.0.weight``...).
        model: folder or hub id of the CLIP model that the head was trained on.
        num_frames: number of uniformly spaced frames of a video that are scored.
        device: name of a torch device; by default the first GPU if there is one.
        dtype: precision of CLIP's weights; the head is float32.
        batch_size: maximum number of images in one forward pass.

    Raises:
        CheckpointError: if model or head cannot be loaded.
    """

    def __init__(
        self,
        head: str | Path = "",
        *,
        model: str | Path = "openai/clip-vit-large-patch14",
        num_frames: Count = 8,
        device: str | None = None,
        dtype: Dtype = "float32",
        batch_size: Count = 32,
    ) -> None:
        self.num_frames, self.batch_size = num_frames, batch_size
        self.images = PillowCrop(model)
        self.model = load_model(CLIPModel, model, device=device, dtype=dtype)
        self._head = nn.ModuleDict({"layers": score_head(self.model.config.projection_dim)})
        load_weights(self._head, head, hint=_HINT)
        self._head.to(self.model.device).eval().requires_grad_(False)

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        """Raise ConfigError unless a file of the head is given."""
        if not settings.get("head"):
            raise ConfigError(f"aesthetic: expected the safetensors file of the head, got none. {_HINT}")

    def scorer(self, text: str) -> Scorer:
        """Return the function that rates images, the same for every prompt."""
        return self._ratings

    def _ratings(self, pixels: torch.Tensor) -> torch.Tensor:
        features = self.model.visual_projection(self.model.vision_model(pixels).pooler_output)
        return self._head["layers"](nn.functional.normalize(at_least_float32(features), dim=-1))[:, 0]

    def known_pairs(self) -> list[KnownPair]:
        """Return a landscape and noise."""
        return landscape_and_noise()
