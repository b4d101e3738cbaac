"""Temporal consistency (VBench, arXiv 2311.17982): how alike the frames of a video look to CLIP."""

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
from flexgym.types import Prompt
from rewards.checkpoints import Dtype, load_model
from rewards.clip import PictureProcessor, batched
from rewards.images import check_videos
from rewards.known import smooth_and_jumping


class TemporalConsistency(PointwiseReward):
    """Mean over the frames of how alike each is to the first and to the one before, by CLIP's image features; -1 to 1.

    ``1/(F-1) sum_t (cos(d_1, d_t) + cos(d_{t-1}, d_t)) / 2`` (VBench, arXiv 2311.17982, background consistency). A
    video that stands still has 1, so it is best joined with `DynamicDegree` in a rubric. The prompt is not looked at.

    Args:
        model: folder or hub id of a CLIP model.
        num_frames: uniformly spaced frames that are looked at.
        device: by default the first GPU where there is one.
        dtype: of the weights.
        batch_size: pictures in one forward pass.

    Raises:
        ConfigError: fewer than 2 frames.
        CheckpointError: the model cannot be loaded.
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
        self._pictures = PictureProcessor(model)
        self._clip = load_model(CLIPModel, model, device=device, dtype=dtype)

    @torch.inference_mode()
    def score_samples(self, prompt: Prompt, samples: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The score of each video, float32 ``[n]``.

        Args:
            prompt: not read.
            samples: uint8 ``[n, F, H, W, 3]``.

        Raises:
            ConfigError: images, or videos of one frame.
        """
        videos = check_videos(self.name, samples, at_least=2)
        chosen = videos[:, frame_indices(videos.shape[1], self.num_frames)]
        features = batched(
            self._features,
            self._pictures,
            chosen.reshape(-1, *chosen.shape[2:]),
            batch_size=self._batch_size,
            like=self._clip,
        ).unflatten(0, chosen.shape[:2])
        to_first = (features[:, :1] * features[:, 1:]).sum(-1)
        to_last = (features[:, :-1] * features[:, 1:]).sum(-1)
        return ((to_first + to_last) / 2).mean(1).numpy()

    def _features(self, pixels: torch.Tensor) -> torch.Tensor:
        seen = self._clip.visual_projection(self._clip.vision_model(pixels).pooler_output)
        return functional.normalize(seen.float(), dim=-1)

    def known_pairs(self) -> list[KnownPair]:
        """Smooth motion against jumps."""
        return smooth_and_jumping()
