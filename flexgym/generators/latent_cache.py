"""Encoded samples, cached in memory and on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from flexgym.generators.base import FlowGenerator
from flexgym.generators.conditioning import Embedding, EmbeddingCache
from flexgym.generators.identity import autoencoder_identity
from flexgym.generators.tensor_cache import TensorCache

LATENTS = "latents"
"""Name of the clean latents of a sample, float32 ``[...]`` of the generator's ``latent_shape``."""
FIRST = "first_frame"
"""Name of the first frame of a video, uint8 ``[H, W, 3]``, for generators that are given it."""


class LatentCache:
    """Encodes samples to clean latents, each once and alone, so that they do not depend on others beside them.

    Args:
        generator: whose autoencoder encodes.
        folder: folder that keeps the latents; other processes and runs may share it. None keeps them in memory.

    Raises:
        ConfigError: there can be no such folder.
    """

    def __init__(self, generator: FlowGenerator, folder: str | Path | None = None) -> None:
        self._generator = generator
        self._memory = EmbeddingCache()
        identity = autoencoder_identity(generator.pipe) if folder is not None else ""
        self._disk = None if folder is None else TensorCache(folder, identity, setting="data.latent_cache")

    @property
    def keeps_first_frames(self) -> bool:
        """True where the generator is given the first frame of a video."""
        return self._generator.takes_first_frame

    def get(self, key: str, load: Callable[[], NDArray[np.uint8]]) -> Embedding:
        """Return the latents of a sample, and encode it if neither cache holds them.

        Args:
            key: digest of what the pixels follow from, besides the generator's ``sample_shape``.
            load: returns the pixels, uint8 of the generator's ``sample_shape``.

        Returns:
            Tensors on the CPU by name, `LATENTS` and, for generators that are given a first frame, `FIRST`.
        """
        return self._memory.get(key, lambda _: self._find(key, load))

    def _find(self, key: str, load: Callable[[], NDArray[np.uint8]]) -> Embedding:
        if self._disk is None:
            return self._encode(load())
        generator = self._generator
        request = {
            "sample": key,
            "shape": list(generator.sample_shape),
            "first_frame": self.keeps_first_frames,
            "tiled": bool(getattr(generator.pipe.vae, "use_tiling", False)),
            "dtype": str(generator.pipe.vae.dtype),
            "device": generator.device.type,  # kernels of another device round otherwise
        }
        return self._disk.get(request, lambda: self._encode(load()))

    def _encode(self, pixels: NDArray[np.uint8]) -> Embedding:
        latents = self._generator.encode(pixels[None])[0].cpu()
        first = {FIRST: torch.from_numpy(pixels[0].copy())} if self.keeps_first_frames else {}
        return {LATENTS: latents, **first}
