"""Image preprocessing of the published scorers, reproduced without torchvision.

Published scorers differ in details that change scores: Pillow or tensors, antialiasing, crop or padding, and how the
center is rounded. Each class here gives the pixels of one family.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from flexgym.core.errors import CheckpointError
from flexgym.rewards.checkpoints import load_part
from flexgym.rewards.resampling import resized

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


class DifferentiablePreprocessor(Preprocessor, Protocol):
    """Prepares real pixels as well, with gradients to them."""

    def differentiable(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return normalized pixels ``[N, 3, S, S]`` of real ones.

        They differ from those of the same image in uint8 only where that is rounded on the way, see
        `rewards.resampling.resized`.

        Args:
            pixels: ``[N, 3, H, W]`` from 0 to 1, float32 or float64.
        """
        ...


@dataclass(frozen=True, eq=False)
class ImageSettings:
    """Settings of a checkpoint's image processor.

    Attributes:
        shortest_edge: length in pixels that the shortest side is resized to.
        side: side S of the crop.
        mean: mean of each color, float32 ``[3, 1, 1]``.
        std: standard deviation of each color, float32 ``[3, 1, 1]``.
    """

    shortest_edge: int
    side: int
    mean: torch.Tensor
    std: torch.Tensor

    @classmethod
    def of(cls, processor: Any) -> ImageSettings:
        """Read the settings of an image processor of transformers."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
        edge = processor.size.get("shortest_edge") or processor.size["height"]  # the latter of DINOv3
        return cls(int(edge), int(processor.crop_size["height"]), mean=mean, std=std)

    def normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        """Subtract the mean from pixels ``[N, 3, S, S]`` and divide by the standard deviation."""
        return (pixels - self.mean.to(pixels)) / self.std.to(pixels)


class ImageProcessor(ABC):
    """Prepares images for a model, with size, mean and standard deviation of its checkpoint.

    Args:
        source: a folder or hub id with ``preprocessor_config.json``.
    """

    def __init__(self, source: str | Path) -> None:
        self._settings = ImageSettings.of(load_part(CLIPImageProcessorPil, source))

    def __call__(self, images: Images) -> torch.Tensor:
        """Return normalized pixels, float32 ``[N, 3, S, S]``, of images uint8 ``[N, H, W, 3]``."""
        return self._settings.normalized(torch.stack([self._fitted(image) for image in images]))

    @abstractmethod
    def _fitted(self, image: Images) -> torch.Tensor:
        """Return the pixels of one image, float32 ``[3, S, S]``, about 0 to 1."""


class PillowCrop(ImageProcessor):
    """Resizes the shortest side with Pillow and crops the center as torchvision does (CLIP, CLIPScore, ImageReward)."""

    def _fitted(self, image: Images) -> torch.Tensor:
        height, width = shortest_side_to(self._settings.shortest_edge, image.shape[:2])
        small = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
        return center_crop(_as_tensor(np.asarray(small)), self._settings.side).float() / 255

    def differentiable(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return normalized pixels of real ones, see `DifferentiablePreprocessor.differentiable`."""
        return _crop_of_shortest_side(pixels, self._settings, round_start=round)


class TensorCrop(ImageProcessor):
    """Resizes the shortest side of an integer tensor without antialiasing and crops the center (VBench)."""

    def _fitted(self, image: Images) -> torch.Tensor:
        size = shortest_side_to(self._settings.shortest_edge, image.shape[:2])
        pixels = _as_tensor(image)
        if size != image.shape[:2]:
            small = functional.interpolate(pixels[None].float(), size, mode="bicubic", align_corners=False)[0]
            pixels = small.clamp(0, 255).round()
        return center_crop(pixels, self._settings.side).float() / 255


class TensorPadding(ImageProcessor):
    """Resizes the longest side of a float tensor and pads the other with black on both ends (HPSv2).

    Bicubic interpolation overshoots at edges, and the values beyond 0 and 1 are kept, unlike those of Pillow. Since
    version 0.17 of torchvision, on which the published code runs today, the resize is antialiased.
    """

    def _fitted(self, image: Images) -> torch.Tensor:
        size = self._longest_side(image.shape[:2])
        pixels = _as_tensor(image).float() / 255
        if size != image.shape[:2]:
            pixels = functional.interpolate(pixels[None], size, mode="bicubic", align_corners=False, antialias=True)[0]
        return self._padded(pixels)

    def differentiable(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return normalized pixels of real ones, see `DifferentiablePreprocessor.differentiable`."""
        height, width = pixels.shape[-2:]
        return self._settings.normalized(self._padded(resized(pixels, self._longest_side((height, width)))))

    def _longest_side(self, size: tuple[int, ...]) -> tuple[int, int]:
        height, width = size
        scale = self._settings.side / max(height, width)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def _padded(self, pixels: torch.Tensor) -> torch.Tensor:
        below, right = (self._settings.side - length for length in pixels.shape[-2:])
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

    def differentiable(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return normalized pixels of real ones, see `DifferentiablePreprocessor.differentiable`.

        Raises:
            CheckpointError: the processor does anything but a bicubic resize of the shortest side, a crop of the center
                and a normalization.
        """
        _check_published(self._processor)
        return _crop_of_shortest_side(pixels, ImageSettings.of(self._processor), round_start=int)


def _check_published(processor: Any) -> None:
    found = {name: getattr(processor, name) for name in ("do_resize", "do_center_crop", "do_rescale", "do_normalize")}
    found["do_pad"] = not getattr(processor, "do_pad", False)
    edge, crop = processor.size.get("shortest_edge") or 0, processor.crop_size
    found["size.shortest_edge"] = edge > 0
    found["crop_size"] = crop["height"] == crop["width"] <= edge
    found["resample: 3"] = processor.resample == Image.Resampling.BICUBIC
    found["rescale_factor: 1/255"] = abs(processor.rescale_factor * 255 - 1) < 1e-6
    if missing := [name for name, holds in found.items() if not holds]:
        raise CheckpointError(
            "preprocessor_config.json: gradients need the processing of CLIP, a bicubic resize of the shortest side,"
            f" a crop of the center and a normalization; it has other settings of {', '.join(missing)}"
        )


def _crop_of_shortest_side(
    pixels: torch.Tensor, settings: ImageSettings, *, round_start: Callable[[float], int]
) -> torch.Tensor:
    """Resize as Pillow does, crop the center and normalize, with gradients."""
    height, width = pixels.shape[-2:]
    size = shortest_side_to(settings.shortest_edge, (height, width))
    small = resized(pixels, size, between=(0.0, 1.0))
    return settings.normalized(center_crop(small, settings.side, round_start=round_start))


def shortest_side_to(side: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of an image after a resize that brings its shortest side to ``side`` pixels."""
    height, width = size
    if width <= height:
        return int(side * height / width), side
    return side, int(side * width / height)


def center_crop(pixels: torch.Tensor, side: int, *, round_start: Callable[[float], int] = round) -> torch.Tensor:
    """Crop the center of ``[..., H, W]``.

    Args:
        pixels: images that are at least as large as the crop.
        side: side of the crop.
        round_start: rounds an odd margin; by default to the even start, as torchvision does.
    """
    top, left = (round_start((length - side) / 2) for length in pixels.shape[-2:])
    return pixels[..., top : top + side, left : left + side]


def _as_tensor(image: Images) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
