"""Shared code of the rewards by a model of images: scores of finished samples, and gradients to real pixels."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from flexgym.core.errors import ConfigError
from flexgym.reward import PointwiseReward
from flexgym.rewards.images import frames_of_pixels, mean_over_frames
from flexgym.rewards.preprocessing import DifferentiablePreprocessor, Images, Preprocessor
from flexgym.types import Prompt

Scorer = Callable[[torch.Tensor], torch.Tensor]
"""Maps normalized pixels ``[N, 3, S, S]`` to scores ``[N]``."""


class ImageModelReward(PointwiseReward):
    """Base of scores of images by a frozen model; a video scores the mean over its frames.

    A subclass defines `scorer` and sets the attributes in its constructor.

    Attributes:
        num_frames: number of uniformly spaced frames of a video that are scored.
        batch_size: maximum number of images in one forward pass.
        images: prepares images for the model.
        model: the model; normalized pixels get its device and dtype.
    """

    pickled_as_settings: ClassVar[bool] = True

    num_frames: int
    batch_size: int
    images: DifferentiablePreprocessor
    model: Any

    @abstractmethod
    def scorer(self, text: str) -> Scorer:
        """Return the function that scores images for a prompt, differentiable and in float32 at least."""

    @torch.inference_mode()
    def score_samples(self, prompt: Prompt, samples: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Score the samples of one prompt, float32 ``[n]``; see `PointwiseReward.score_samples`."""
        scorer = self.scorer(prompt.text)

        def scores(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            return batched(scorer, self.images, images, batch_size=self.batch_size, like=self.model).numpy()

        return mean_over_frames(scores, samples, num_frames=self.num_frames)

    def gradient_scores(self, pixels: torch.Tensor, prompts: Sequence[Prompt]) -> torch.Tensor:
        """Score samples with gradients to their pixels, float32 ``[B]``; see `Reward.gradient_scores`."""
        return self.exact_scores(pixels, prompts).float()

    def exact_scores(self, pixels: torch.Tensor, prompts: Sequence[Prompt]) -> torch.Tensor:
        """Compute `gradient_scores` in the precision of pixels and model, at least float32.

        Args:
            pixels: as for `gradient_scores`.
            prompts: B of them.
        """
        if len(prompts) != len(pixels):
            raise ConfigError(f"{self.name}: expected one prompt for each of {len(pixels)} samples, got {len(prompts)}")
        frames = frames_of_pixels(pixels, num_frames=self.num_frames)
        prepared = self.images.differentiable(frames.flatten(0, 1)).to(self.model.device, self.model.dtype)
        videos = prepared.unflatten(0, frames.shape[:2])
        rows_of: dict[str, list[int]] = {}
        for row, prompt in enumerate(prompts):
            rows_of.setdefault(prompt.text, []).append(row)
        scores = torch.cat([self._scored(text, videos[rows].flatten(0, 1)) for text, rows in rows_of.items()])
        order = torch.tensor([row for rows in rows_of.values() for row in rows])
        means = scores.unflatten(0, (-1, frames.shape[1])).mean(1)
        return means[order.argsort().to(means.device)].to(pixels.device)

    def _scored(self, text: str, prepared: torch.Tensor) -> torch.Tensor:
        scorer = self.scorer(text)
        return torch.cat([scorer(part) for part in prepared.split(self.batch_size)])


def at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Return half-precision values in float32, others as they are."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def batched(
    function: Callable[[torch.Tensor], torch.Tensor],
    processor: Preprocessor,
    images: Images,
    *,
    batch_size: int,
    like: Any,
) -> torch.Tensor:
    """Apply a function to images batch by batch, on the model's device.

    Args:
        function: maps normalized pixels ``[B, 3, S, S]`` to ``[B, ...]``.
        processor: returns the normalized pixels of images.
        images: uint8 ``[N, H, W, 3]``.
        batch_size: maximum of B.
        like: the model; the pixels get its device and dtype.

    Returns:
        The results ``[N, ...]`` on the CPU.
    """
    parts = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    return torch.cat([function(processor(part).to(like.device, like.dtype)).cpu() for part in parts])
