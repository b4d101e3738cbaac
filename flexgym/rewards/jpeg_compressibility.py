"""Size of an image as a JPEG file: a reward without a model, for fast tests of learning."""

from __future__ import annotations

import io
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from flexgym.reward import KnownPair, PointwiseReward
from flexgym.rewards.images import as_videos
from flexgym.rewards.known import flat_and_noise
from flexgym.types import Prompt

KILOBYTES_PER_UNIT = 500.0


class JPEGCompressibility(PointwiseReward):
    """Minus the size of an image as a JPEG file in kilobytes, divided by 500.

    The task is that of DDPO (arXiv 2305.13301), the scale that of Flow-GRPO. Videos score the mean over frames. The
    prompt is ignored.

    Args:
        quality: quality of JPEG, 1 to 95; 95 as in DDPO.
        incompressible: flip the sign, so that large files are good (the other task of DDPO).
    """

    def __init__(self, *, quality: Annotated[int, Field(ge=1, le=95)] = 95, incompressible: bool = False) -> None:
        self.quality = quality
        self.sign = 1.0 if incompressible else -1.0

    def score_samples(self, prompt: Prompt, samples: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Score the samples of one prompt, float32 ``[n]``; see `PointwiseReward.score_samples`."""
        kilobytes = [np.mean([self._kilobytes(frame) for frame in video]) for video in as_videos(samples)]
        return np.array(kilobytes, np.float32) * np.float32(self.sign / KILOBYTES_PER_UNIT)

    def _kilobytes(self, frame: NDArray[np.uint8]) -> float:
        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=self.quality)
        return buffer.tell() / 1000.0

    def known_pairs(self) -> list[KnownPair]:
        """Return a flat image and noise."""
        return flat_and_noise(reverse=self.sign > 0)
