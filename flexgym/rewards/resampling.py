"""Antialiased bicubic resizing with gradients, by the filter of Pillow.

A resize is linear, so it is a product with one matrix per side. The gradient of a product is the same each time, while
that of torch's own kernel is not deterministic on GPUs, and Pillow clips between the two sides.
"""

from __future__ import annotations

from functools import lru_cache

import torch

_SHARPNESS = -0.5
"""Parameter a of the bicubic filter in Pillow, and in torch with antialiasing."""


def resized(pixels: torch.Tensor, size: tuple[int, int], *, between: tuple[float, float] | None = None) -> torch.Tensor:
    """Resize images with antialiasing, first their width, then their height.

    Differs from Pillow by what Pillow rounds to 256 levels after either step: at most about one level, on average 0.3.

    Args:
        pixels: ``[..., H, W]``.
        size: height and width of the result.
        between: bounds that the values are clamped to after each step, as Pillow does: the filter overshoots at edges.
            None keeps values beyond.
    """
    height, width = pixels.shape[-2:]
    if width != size[1]:
        pixels = _bounded(pixels @ _matrix(width, size[1]).to(pixels).T, between)
    if height != size[0]:
        pixels = _bounded(_matrix(height, size[0]).to(pixels) @ pixels, between)
    return pixels


def _bounded(pixels: torch.Tensor, between: tuple[float, float] | None) -> torch.Tensor:
    return pixels if between is None else pixels.clamp(*between)


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # kept for later calls, which may need gradients
def _matrix(length: int, target: int) -> torch.Tensor:
    """Return the weights of each old pixel in each new one, float64 ``[target, length]``; rows sum to 1."""
    scale = length / target
    old, new = torch.arange(length, dtype=torch.float64) + 0.5, torch.arange(target, dtype=torch.float64) + 0.5
    distance = (old - new[:, None] * scale).abs() / max(scale, 1.0)
    near = ((_SHARPNESS + 2) * distance - (_SHARPNESS + 3)) * distance**2 + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * _SHARPNESS
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    return weights / weights.sum(1, keepdim=True)
