"""How small a video is as an MP4 file: a reward without a model, for fast tests of learning."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flexgym.core.media import encode_mp4
from flexgym.reward import KnownPair, PointwiseReward
from flexgym.types import Prompt
from rewards.images import check_videos
from rewards.known import still_and_noise

BYTES_PER_KILOBYTE = 1000.0


class MP4Compressibility(PointwiseReward):
    """Minus the size of the H.264 file of a video in kilobytes per frame.

    The counterpart for videos of JPEG compressibility (DDPO, arXiv 2305.13301): besides smooth frames it rewards those
    that follow from one another. The prompt is not looked at.

    Args:
        incompressible: turn the sign, so that large files are good.
    """

    def __init__(self, *, incompressible: bool = False) -> None:
        self.sign = 1.0 if incompressible else -1.0

    def score_samples(self, prompt: Prompt, samples: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The score of each video, float32 ``[n]``.

        Args:
            prompt: not read.
            samples: uint8 ``[n, F, H, W, 3]``.

        Raises:
            ConfigError: images.
        """
        videos = check_videos(self.name, samples)
        kilobytes = np.array([len(encode_mp4(video)) for video in videos], np.float32) / BYTES_PER_KILOBYTE
        return np.float32(self.sign) * kilobytes / np.float32(videos.shape[1])

    def known_pairs(self) -> list[KnownPair]:
        """A video that stands still against noise."""
        return still_and_noise(reverse=self.sign > 0)
