"""The autoencoder of a generator: from latents to pixels and back."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flexgym.core.errors import ConfigError, GeneratorError
from flexgym.core.pickling import recomputed
from flexgym.generators.family import Family
from flexgym.generators.placement import AUTOENCODER, Placement

_DECODE_PIXELS = 1 << 22
"""Pixels that one call of the autoencoder takes at most: sixteen images of 512x512."""


class Autoencoder:
    """Decodes latents to samples and encodes samples to latents.

    Args:
        family: how the pipeline does it.
        placement: brings the autoencoder to the device when it is offloaded.
    """

    def __init__(self, family: Family, placement: Placement) -> None:
        self._family = family
        self._placement = placement

    def view(self, family: Family) -> Autoencoder:
        """Return the same autoencoder for samples of other settings."""
        view = copy.copy(self)
        view._family = family
        return view

    @torch.no_grad()
    def decode(self, latents: Tensor, chunk: int | None = None) -> NDArray[np.uint8]:
        """Decode clean latents, clamped and rounded as diffusers does.

        Kernels may round differently for another number of rows, by one level of 255: what must be equal to the bit is
        decoded in the same chunks.

        Args:
            latents: ``[B, ...]``.
            chunk: rows per call of the autoencoder; None takes about four million pixels.

        Returns:
            uint8 ``[B, H, W, 3]`` or ``[B, F, H, W, 3]``.
        """
        shape = self._family.sample_shape
        size = chunk or decode_rows(shape)
        samples = np.empty((len(latents), *shape), dtype=np.uint8)
        with self._placement.using(AUTOENCODER):
            for start in range(0, len(latents), size):
                samples[start : start + size] = self.decode_chunk(latents[start : start + size]).cpu().numpy()
        return samples

    def decode_chunk(self, latents: Tensor) -> Tensor:
        """Decode the rows of one call of the autoencoder.

        Args:
            latents: ``[B, ...]``.

        Returns:
            uint8 ``[B, H, W, 3]`` or ``[B, F, H, W, 3]``, on the autoencoder's device.
        """
        levels = self.decode_pixels(latents).clamp(0, 1).float().mul(255).round().to(torch.uint8)
        return levels.movedim(1, -1)

    def decode_pixels(self, latents: Tensor) -> Tensor:
        """Decode the rows of one call to real numbers, with gradients to the latents.

        Call it, and the backward pass, inside `for_gradients`, which brings an offloaded autoencoder to the device.

        Args:
            latents: ``[B, ...]``.

        Returns:
            ``[B, 3, H, W]`` or ``[B, 3, F, H, W]`` in the autoencoder's precision, from 0 to 1 but not clamped.
        """
        family, vae = self._family, self._family.pipe.vae
        rows = family.to_autoencoder(latents.to(vae.device))
        pixels = family.decode(rows.to(vae.dtype))
        if family.cut_frames():
            pixels = pixels[:, :, family.cut_frames() :]
        return pixels * 0.5 + 0.5

    @contextmanager
    def for_gradients(self) -> Iterator[None]:
        """Keep the autoencoder on the device, and recompute its blocks in the backward pass if it supports that.

        Recomputing costs one more decoding and changes no gradient; without it every activation is kept.
        """
        vae = self._family.pipe.vae
        recompute = getattr(vae, "_supports_gradient_checkpointing", False) and not vae.is_gradient_checkpointing
        with self._placement.using(AUTOENCODER):
            if recompute:
                vae.enable_gradient_checkpointing(recomputed)
            try:
                yield
            finally:
                if recompute:
                    vae.disable_gradient_checkpointing()

    @torch.no_grad()
    def encode(self, samples: NDArray[np.uint8] | Tensor, chunk: int | None = None) -> Tensor:
        """Encode samples to their most likely clean latents, the inverse of `decode`.

        Frames that decoding cuts off at the start are taken to be copies of the first.

        Args:
            samples: uint8 ``[B, H, W, 3]`` or ``[B, F, H, W, 3]`` of the generator's ``sample_shape``.
            chunk: rows per call of the autoencoder; None takes about four million pixels.

        Returns:
            float32 ``[B, ...]`` of the generator's ``latent_shape``, on its device.

        Raises:
            ConfigError: the samples have another shape or type.
        """
        shape, given = self._family.sample_shape, torch.as_tensor(samples)
        if given.dtype != torch.uint8 or tuple(given.shape[1:]) != shape or not len(given):
            found = f"{given.dtype} {list(given.shape)}".removeprefix("torch.")
            raise ConfigError(
                f"expected samples of type uint8 and shape [B, {', '.join(map(str, shape))}], got {found}"
            )
        with self._placement.using(AUTOENCODER):
            parts = [self._encode(rows) for rows in given.split(chunk or decode_rows(shape))]
        return torch.cat(parts).to(self._placement.device)

    def _encode(self, samples: Tensor) -> Tensor:
        family, vae = self._family, self._family.pipe.vae
        pixels = samples.movedim(-1, 1).to(vae.device, torch.float32) / 127.5 - 1.0
        if family.cut_frames():
            first = pixels[:, :, :1].expand(-1, -1, family.cut_frames(), -1, -1)
            pixels = torch.cat([first, pixels], 2)
        return family.from_autoencoder(family.encode(pixels.to(vae.dtype)))

    def tile(self) -> None:
        """Enable diffusers' tiled decoding and encoding, for every view of the generator.

        Samples no larger than a tile are decoded as before. In larger ones the tiles are blended where they overlap, so
        that they differ a little from those decoded in one piece.

        Raises:
            GeneratorError: the autoencoder does not support tiling.
        """
        vae = self._family.pipe.vae
        if not hasattr(vae, "use_tiling"):
            raise GeneratorError(
                f"expected an autoencoder that decodes in tiles, got {type(vae).__name__}, which cannot: leave out"
                " vae_tiling, and make fewer or smaller samples at once"
            )
        vae.enable_tiling()


def decode_rows(sample_shape: Sequence[int]) -> int:
    """Return how many samples the autoencoder takes in one call by default.

    Args:
        sample_shape: shape of one, ``(H, W, 3)`` or ``(F, H, W, 3)``.
    """
    return max(1, _DECODE_PIXELS // math.prod(sample_shape[:-1]))
