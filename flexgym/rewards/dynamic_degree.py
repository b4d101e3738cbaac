"""Dynamic degree: amount of motion in a video, by optical flow."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from flexgym.reward import KnownPair, PointwiseReward
from flexgym.rewards.images import check_videos
from flexgym.rewards.known import moving_and_still
from flexgym.types import Prompt

_FASTEST = 0.05
_PIXELS, _OF_SIDE = 6.0, 256.0


class DynamicDegree(PointwiseReward):
    """Amount of motion between consecutive frames, 0 to 1.

    A pair of frames scores the mean length of the longest 5 % of the flow vectors, divided by 6 pixels per 256 of the
    shorter side and clipped at 1. VBench (arXiv 2311.17982, dynamic degree) uses the same measure and threshold, and
    asks whether enough pairs of a video exceed it; here the score is the mean over the pairs, which gives a learning
    signal. The flow is Farneback's (OpenCV), which needs no weights, instead of RAFT. The prompt is ignored.
    """

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
        return np.array([self._degree(video) for video in videos], np.float32)

    def _degree(self, video: NDArray[np.uint8]) -> float:
        gray = [cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY) for frame in video]
        threshold = _PIXELS * min(video.shape[1:3]) / _OF_SIDE
        speeds = [self._fastest(before, after) for before, after in zip(gray[:-1], gray[1:], strict=True)]
        return float(np.mean(np.minimum(np.array(speeds) / threshold, 1.0)))

    def _fastest(self, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> float:
        """Return the mean length of the longest 5 % of the flow vectors, in pixels."""
        flow = cv2.calcOpticalFlowFarneback(before, after, None, 0.5, 3, 15, 3, 5, 1.2, 0)
        lengths = np.sort(np.hypot(flow[..., 0], flow[..., 1]), axis=None)
        return float(lengths[-max(1, int(len(lengths) * _FASTEST)) :].mean())

    def known_pairs(self) -> list[KnownPair]:
        """Return a moving and a still circle."""
        return moving_and_still()
