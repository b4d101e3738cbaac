"""Latents that are normalised channel by channel, as the autoencoders of videos have them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def denormalise(vae: Any, latents: Tensor) -> Tensor:
    """Undo the normalisation by a mean and a deviation for each channel.

    Args:
        vae: autoencoder whose config holds ``latents_mean`` and ``latents_std``.
        latents: ``[B, C, F, H, W]``.

    Returns:
        Latents of the same shape in the autoencoder's precision.
    """
    latents = latents.to(vae.dtype)
    mean = torch.tensor(vae.config.latents_mean).view(1, -1, 1, 1, 1).to(latents)
    # the pipelines divide by the inverse deviation; multiplying instead would differ in the last bit
    inverse = 1.0 / torch.tensor(vae.config.latents_std).view(1, -1, 1, 1, 1).to(latents)
    return latents / inverse + mean
