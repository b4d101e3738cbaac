"""Size of a video as an MP4 file: a reward without a model, for fast tests of learning."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flexgym.core.media import encode_mp4
from flexgym.reward import KnownPair, PointwiseReward
from flexgym.rewards.images import check_videos
from flexgym.rewards.known import still_and_noise
from flexgym.types import Prompt

BYTES_PER_KILOBYTE = 1000.0


class MP4Compressibility(PointwiseReward):
    """Minus the size of the H.264 file of a video in kilobytes per frame.

    The counterpart of JPEG compressibility (DDPO, arXiv 2305.13301) for videos: it rewards smooth frames, and frames
    that can be predicted from one another. The prompt is ignored.

    Args:
        incompressible: flip the sign, so that large files are good.
    """

    def __init__(self, *, incompressible: bool = False) -> None:
        self.sign = 1.0 if incompressible else -1.0

    def score_samples(self, prompt: Prompt, samples: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Score videos.

        Args:
            prompt: ignored.
            samples: uint8 ``[n, F, H, W, 3]``.

        Returns:
            float32 ``[n]``.

        Raises:
            ConfigError: for images.
        """
        videos = check_videos(self.name, samples)
        kilobytes = np.array([len(encode_mp4(video)) for video in videos], np.float32) / BYTES_PER_KILOBYTE
        return np.float32(self.sign) * kilobytes / np.float32(videos.shape[1])

    def known_pairs(self) -> list[KnownPair]:
        """Return a still video and noise."""
        return still_and_noise(reverse=self.sign > 0)
