"""Latents that are normalized channel by channel, as the autoencoders of videos have them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def denormalize(vae: Any, latents: Tensor) -> Tensor:
    """Undo the normalization by a mean and a deviation for each channel.

    Args:
        vae: autoencoder whose config holds ``latents_mean`` and ``latents_std``.
        latents: ``[B, C, F, H, W]``.

    Returns:
        Latents of the same shape in the autoencoder's precision.
    """
    latents = latents.to(vae.dtype)
    mean, inverse = _statistics(vae, latents)
    # the pipelines divide by the inverse deviation; multiplying instead would differ in the last bit
    return latents / inverse + mean


def normalize(vae: Any, latents: Tensor) -> Tensor:
    """Subtract the mean of each channel and divide by its deviation; arguments as those of `denormalize`."""
    mean, inverse = _statistics(vae, latents)
    return (latents - mean) * inverse


def _statistics(vae: Any, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean and the inverse deviation of each channel, for latents ``[B, C, F, H, W]``."""
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1).to(latents)
    inverse = 1.0 / torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1).to(latents)
    return mean, inverse
