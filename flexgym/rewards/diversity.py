"""Distance of each sample from the most similar one of its group (GARDO, arXiv 2512.24138)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel

from flexgym.core.errors import ConfigError
from flexgym.core.typed import Count
from flexgym.flow import diversity
from flexgym.judge.inputs import frame_indices
from flexgym.reward import PointwiseReward
from flexgym.rewards.checkpoints import Dtype, load_model
from flexgym.rewards.image_model import batched
from flexgym.rewards.images import as_videos
from flexgym.rewards.preprocessing import PillowCrop
from flexgym.types import Prompt


class Diversity(PointwiseReward):
    """Distance of a sample from the most similar other one of its group; a group needs two samples.

    With a vision model it is the cosine distance of its features, 0 to 2 (see `flexgym.flow.diversity`; GARDO's
    authors take DINOv3), which distinguishes contents. Without one it is the root mean square distance of the pixels, 0
    to 1, which distinguishes mostly colors and places. The prompt is ignored. As a monitor it can weigh advantages, see
    ``training.advantage.diversity``.

    Args:
        model: folder or hub id of a vision model of transformers that pools its features, such as DINOv2 or DINOv3;
            None compares pixels.
        num_frames: number of uniformly spaced frames of a video that are compared, each with its counterpart.
        device: name of a torch device; by default the first GPU if there is one.
        dtype: precision of the weights.
        batch_size: maximum number of images in one forward pass.

    Raises:
        CheckpointError: if the model cannot be loaded.
    """

    pickled_as_settings: ClassVar[bool] = True

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        num_frames: Count = 8,
        device: str | None = None,
        dtype: Dtype = "float32",
        batch_size: Count = 32,
    ) -> None:
        self._num_frames, self._batch_size = num_frames, batch_size
        self._images = None if model is None else PillowCrop(model)
        self._model = None if model is None else load_model(AutoModel, model, device=device, dtype=dtype)

    def score_samples(self, prompt: Prompt, samples: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Score the samples of one group, ``[n]``.

        Args:
            prompt: ignored.
            samples: uint8 ``[n, H, W, 3]`` or ``[n, F, H, W, 3]``.

        Raises:
            ConfigError: there are fewer than two samples.
        """
        if len(samples) < 2:
            raise ConfigError(f"{self.name}: expected a group of at least two samples to compare, got {len(samples)}")
        videos = as_videos(samples)
        chosen = videos[:, frame_indices(videos.shape[1], self._num_frames)]
        if self._images is None:
            return _pixel_distances(chosen)
        features = self._features(chosen.reshape(-1, *chosen.shape[2:]))
        return diversity(features.unflatten(0, chosen.shape[:2]).movedim(1, 0).double().numpy()).mean(axis=0)

    @torch.inference_mode()
    def _features(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """Return the features of images, ``[N, F]``."""
        assert self._images is not None
        assert self._model is not None
        vision = getattr(self._model, "vision_model", self._model)
        return batched(
            lambda pixels: vision(pixels).pooler_output.float(),
            self._images,
            images,
            batch_size=self._batch_size,
            like=self._model,
        )


def _pixel_distances(videos: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the root mean square distance of each video from the nearest other one, float64 ``[n]``."""
    flat = videos.reshape(len(videos), -1).astype(np.float32) / 255.0
    found = np.full(len(flat), np.inf)
    for row, values in enumerate(flat):
        squares = np.square(flat - values, dtype=np.float64).mean(axis=1)
        squares[row] = np.inf
        found[row] = np.sqrt(squares.min())
    return found
