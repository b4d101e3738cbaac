"""Samples as frames, so that scorers of images score videos as well."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from flexgym.core.errors import ConfigError
from flexgym.judge.inputs import frame_indices


def as_videos(samples: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return samples as videos, uint8 ``[n, F, H, W, 3]``; an image is a video of one frame.

    Raises:
        ConfigError: for anything but uint8 ``[n, H, W, 3]`` or ``[n, F, H, W, 3]``.
    """
    if samples.dtype != np.uint8 or samples.ndim not in (4, 5) or samples.shape[-1] != 3 or not samples[:1].size:
        raise ConfigError(
            f"samples: expected uint8 [n, H, W, 3] or [n, F, H, W, 3], got {samples.dtype} {list(samples.shape)}"
        )
    return samples[:, None] if samples.ndim == 4 else samples


def check_videos(name: str, samples: NDArray[np.uint8], *, at_least: int = 1) -> NDArray[np.uint8]:
    """Return samples that must be videos.

    Args:
        name: name of the reward, for the error message.
        samples: uint8 ``[n, F, H, W, 3]``.
        at_least: minimum number of frames.

    Raises:
        ConfigError: for images, and for videos of fewer frames.
    """
    videos = as_videos(samples)
    if samples.ndim != 5 or videos.shape[1] < at_least:
        raise ConfigError(f"{name} scores videos of at least {at_least} frames, got samples {list(samples.shape)}")
    return videos


def mean_over_frames(
    scorer: Callable[[NDArray[np.uint8]], ArrayLike], samples: NDArray[np.uint8], *, num_frames: int
) -> NDArray[np.float32]:
    """Score samples with a scorer of images; a video scores the mean over its frames.

    Args:
        scorer: maps images uint8 ``[N, H, W, 3]`` to numbers ``[N]``; called once.
        samples: uint8 ``[n, H, W, 3]`` or ``[n, F, H, W, 3]``.
        num_frames: number of uniformly spaced frames of each video that are scored.

    Returns:
        float32 ``[n]``.
    """
    videos = as_videos(samples)
    chosen = videos[:, frame_indices(videos.shape[1], num_frames)]
    scores = np.asarray(scorer(chosen.reshape(-1, *chosen.shape[2:])), np.float64)
    return scores.reshape(chosen.shape[:2]).mean(axis=1).astype(np.float32)


def frames_of_pixels(pixels: torch.Tensor, *, num_frames: int) -> torch.Tensor:
    """Return the frames that `mean_over_frames` scores, of samples of real numbers.

    Args:
        pixels: ``[B, 3, H, W]`` or ``[B, 3, F, H, W]``.
        num_frames: number of uniformly spaced frames of each video that are scored.

    Returns:
        ``[B, f, 3, H, W]``, clamped to 0 to 1, in float32 unless they are float64.

    Raises:
        ConfigError: for anything but real numbers of such a shape.
    """
    if not pixels.is_floating_point() or pixels.ndim not in (4, 5) or pixels.shape[1] != 3 or not pixels[:1].numel():
        found = f"{pixels.dtype} {list(pixels.shape)}".removeprefix("torch.")
        raise ConfigError(f"pixels: expected real numbers [B, 3, H, W] or [B, 3, F, H, W] from 0 to 1, got {found}")
    frames = pixels[:, None] if pixels.ndim == 4 else pixels.movedim(2, 1)
    chosen = frames[:, frame_indices(frames.shape[1], num_frames)]
    return chosen.to(torch.promote_types(pixels.dtype, torch.float32)).clamp(0, 1)
