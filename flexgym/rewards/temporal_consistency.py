"""Temporal consistency (VBench, arXiv 2311.17982): similarity of the frames of a video by CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch.nn import functional
from transformers import CLIPModel

from flexgym.core.typed import Count
from flexgym.judge.inputs import frame_indices
from flexgym.reward import KnownPair, PointwiseReward
from flexgym.rewards.checkpoints import Dtype, load_model
from flexgym.rewards.image_model import batched
from flexgym.rewards.images import check_videos
from flexgym.rewards.known import smooth_and_jumping
from flexgym.rewards.preprocessing import TensorCrop
from flexgym.types import Prompt


class TemporalConsistency(PointwiseReward):
    """Mean similarity of each frame to the first and to the previous one, by CLIP's image features; 0 to 1.

    ``1/(F-1) sum_t (cos(d_1, d_t) + cos(d_{t-1}, d_t)) / 2`` with cosines below 0 counted as 0 (VBench, arXiv
    2311.17982, background consistency). Frames are resized without antialiasing, as in VBench, which uses
    ``openai/clip-vit-base-patch32`` and all frames. A still video scores 1, so combine it with `DynamicDegree` in a
    rubric. The prompt is ignored.

    Args:
        model: folder or hub id of a CLIP model.
        num_frames: number of uniformly spaced frames that are compared, at least 2.
        device: name of a torch device; by default the first GPU if there is one.
        dtype: precision of the weights.
        batch_size: maximum number of images in one forward pass.

    Raises:
        CheckpointError: if the model cannot be loaded.
    """

    def __init__(
        self,
        model: str | Path = "openai/clip-vit-large-patch14",
        *,
        num_frames: Annotated[int, Field(ge=2)] = 16,
        device: str | None = None,
        dtype: Dtype = "float32",
        batch_size: Count = 32,
    ) -> None:
        self.num_frames = num_frames
        self._batch_size = batch_size
        self._images = TensorCrop(model)
        self._clip = load_model(CLIPModel, model, device=device, dtype=dtype)

    @torch.inference_mode()
    def score_samples(self, prompt: Prompt, samples: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Score videos.

        Args:
            prompt: ignored.
            samples: uint8 ``[n, F, H, W, 3]``.

        Returns:
            float32 ``[n]``.

        Raises:
            ConfigError: for images, and for videos of one frame.
        """
        videos = check_videos(self.name, samples, at_least=2)
        chosen = videos[:, frame_indices(videos.shape[1], self.num_frames)]
        features = batched(
            self._features,
            self._images,
            chosen.reshape(-1, *chosen.shape[2:]),
            batch_size=self._batch_size,
            like=self._clip,
        ).unflatten(0, chosen.shape[:2])
        to_first = (features[:, :1] * features[:, 1:]).sum(-1).clamp(min=0)
        to_last = (features[:, :-1] * features[:, 1:]).sum(-1).clamp(min=0)
        return ((to_first + to_last) / 2).mean(1).numpy()

    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        features = self._clip.visual_projection(self._clip.vision_model(pixels).pooler_output)
        return functional.normalize(features.float(), dim=-1)

    def known_pairs(self) -> list[KnownPair]:
        """Return smooth motion and jumps."""
        return smooth_and_jumping()
