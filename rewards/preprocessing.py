"""Image preprocessing of the published scorers, reproduced without torchvision.

Published scorers differ in details that change scores: Pillow or tensors, antialiasing, crop or padding, and how the
center is rounded. Each class here gives the pixels of one family.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from rewards.checkpoints import load_part

Images = NDArray[np.uint8]


class Preprocessor(Protocol):
    """Prepares images for a model, with the settings of its checkpoint.

    Args:
        source: a folder or hub id with ``preprocessor_config.json``.
    """

    def __init__(self, source: str | Path) -> None: ...

    def __call__(self, images: Images) -> torch.Tensor:
        """Return normalized pixels, float32 ``[N, 3, S, S]``, of images uint8 ``[N, H, W, 3]``."""
        ...


class ImageProcessor(ABC):
    """Prepares images for a model, with size, mean and standard deviation of its checkpoint.

    Args:
        source: a folder or hub id with ``preprocessor_config.json``.
    """

    def __init__(self, source: str | Path) -> None:
        settings = load_part(CLIPImageProcessorPil, source)
        self._shortest_edge = int(settings.size["shortest_edge"])
        self._side = int(settings.crop_size["height"])
        self._mean, self._std = (
            torch.tensor(values)[:, None, None] for values in (settings.image_mean, settings.image_std)
        )

    def __call__(self, images: Images) -> torch.Tensor:
        """Return normalized pixels, float32 ``[N, 3, S, S]``, of images uint8 ``[N, H, W, 3]``."""
        return (torch.stack([self._fitted(image) for image in images]) - self._mean) / self._std

    @abstractmethod
    def _fitted(self, image: Images) -> torch.Tensor:
        """Return the pixels of one image, float32 ``[3, S, S]``, about 0 to 1."""


class PillowCrop(ImageProcessor):
    """Resizes the shortest side with Pillow and crops the center as torchvision does (CLIP, CLIPScore, ImageReward)."""

    def _fitted(self, image: Images) -> torch.Tensor:
        height, width = shortest_side_to(self._shortest_edge, image.shape[:2])
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
        return center_crop(_as_tensor(np.asarray(resized)), self._side).float() / 255


class TensorCrop(ImageProcessor):
    """Resizes the shortest side of an integer tensor without antialiasing and crops the center (VBench)."""

    def _fitted(self, image: Images) -> torch.Tensor:
        size = shortest_side_to(self._shortest_edge, image.shape[:2])
        pixels = _as_tensor(image)
        if size != image.shape[:2]:
            resized = functional.interpolate(pixels[None].float(), size, mode="bicubic", align_corners=False)[0]
            pixels = resized.clamp(0, 255).round()
        return center_crop(pixels, self._side).float() / 255


class TensorPadding(ImageProcessor):
    """Resizes the longest side of a float tensor and pads the other with black on both ends (HPSv2).

    Bicubic interpolation overshoots at edges, and the values beyond 0 and 1 are kept, unlike those of Pillow. Since
    version 0.17 of torchvision, on which the published code runs today, the resize is antialiased.
    """

    def _fitted(self, image: Images) -> torch.Tensor:
        height, width = image.shape[:2]
        scale = self._side / max(height, width)
        size = max(1, round(height * scale)), max(1, round(width * scale))
        pixels = _as_tensor(image).float() / 255
        if size != (height, width):
            pixels = functional.interpolate(pixels[None], size, mode="bicubic", align_corners=False, antialias=True)[0]
        below, right = self._side - size[0], self._side - size[1]
        return functional.pad(pixels, (right // 2, right - right // 2, below // 2, below - below // 2))


class CheckpointCrop:
    """Follows the checkpoint's image processor in transformers exactly (PickScore).

    Uses the processor for Pillow, not the one for torchvision: it gives the pixels that the published scorers were
    trained on. Its center crop is rounded down.

    Args:
        source: a folder or hub id with ``preprocessor_config.json``.
    """

    def __init__(self, source: str | Path) -> None:
        self._processor = load_part(CLIPImageProcessorPil, source)

    def __call__(self, images: Images) -> torch.Tensor:
        """Return normalized pixels, float32 ``[N, 3, S, S]``, of images uint8 ``[N, H, W, 3]``."""
        return self._processor([Image.fromarray(image) for image in images], return_tensors="pt")["pixel_values"]


def shortest_side_to(side: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of an image after a resize that brings its shortest side to ``side`` pixels."""
    height, width = size
    if width <= height:
        return int(side * height / width), side
    return side, int(side * width / height)


def center_crop(pixels: torch.Tensor, side: int) -> torch.Tensor:
    """Crop the center of ``[3, H, W]``; like torchvision, round an odd margin to the even start."""
    top, left = (round((length - side) / 2) for length in pixels.shape[1:])
    return pixels[:, top : top + side, left : left + side]


def _as_tensor(image: Images) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
