"""Samples as frames: what the scorers of single pictures share, so that they take videos as well."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from flexgym.core.errors import ConfigError
from flexgym.judge.inputs import frame_indices


def as_videos(samples: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Samples as videos, uint8 ``[n, F, H, W, 3]``; an image has one frame.

    Raises:
        ConfigError: no samples of uint8 ``[n, H, W, 3]`` or ``[n, F, H, W, 3]``.
    """
    if samples.dtype != np.uint8 or samples.ndim not in (4, 5) or samples.shape[-1] != 3 or not samples[:1].size:
        raise ConfigError(
            f"samples: expected uint8 [n, H, W, 3] or [n, F, H, W, 3], got {samples.dtype} {list(samples.shape)}"
        )
    return samples[:, None] if samples.ndim == 4 else samples


def check_videos(name: str, samples: NDArray[np.uint8], *, at_least: int = 1) -> NDArray[np.uint8]:
    """Samples that must be videos.

    Args:
        name: of the reward, for the message.
        samples: uint8 ``[n, F, H, W, 3]``.
        at_least: frames that are needed.

    Raises:
        ConfigError: images, or fewer frames.
    """
    videos = as_videos(samples)
    if samples.ndim != 5 or videos.shape[1] < at_least:
        raise ConfigError(f"{name} scores videos of at least {at_least} frames, got samples {list(samples.shape)}")
    return videos


def mean_over_frames(
    scorer: Callable[[NDArray[np.uint8]], ArrayLike], samples: NDArray[np.uint8], *, num_frames: int
) -> NDArray[np.float32]:
    """Scores of samples by a scorer of single pictures: the mean over frames of a video.

    Args:
        scorer: pictures uint8 ``[N, H, W, 3]`` to numbers ``[N]``; called once.
        samples: uint8 ``[n, H, W, 3]`` or ``[n, F, H, W, 3]``.
        num_frames: how many uniformly spaced frames of each video are scored.

    Returns:
        float32 ``[n]``.
    """
    videos = as_videos(samples)
    chosen = videos[:, frame_indices(videos.shape[1], num_frames)]
    scores = np.asarray(scorer(chosen.reshape(-1, *chosen.shape[2:])), np.float64)
    return scores.reshape(chosen.shape[:2]).mean(axis=1).astype(np.float32)
