"""Devices of a pipeline's modules: moving them, and keeping those in host memory that are not in use."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

_HOST = "cpu"
_ENCODERS = ("text_encoder", "image_encoder")
AUTOENCODER = "vae"


class Placement:
    """Places the modules of a pipeline; shared by all views of a generator.

    Args:
        pipe: the pipeline.

    Attributes:
        offloaded: names of the modules that are in host memory unless they are in use.
    """

    def __init__(self, pipe: DiffusionPipeline) -> None:
        self._pipe = pipe
        self._first_denoiser: nn.Module = pipe.transformer
        self.offloaded: set[str] = set()

    @property
    def device(self) -> torch.device:
        """The device of the transformer, where everything else comes to when it is used."""
        return next(self._first_denoiser.parameters()).device

    def encoders(self) -> dict[str, Any]:
        """Return the encoders of text and of images that are in memory, by their name in the pipeline."""
        parts = self._pipe.components.items()
        return {name: part for name, part in parts if part is not None and name.startswith(_ENCODERS)}

    def offload(self) -> None:
        """Keep the encoders and the autoencoder in host memory, except while they are used."""
        for name in (*self.encoders(), AUTOENCODER):
            getattr(self._pipe, name).to(_HOST)
            self.offloaded.add(name)

    def to(self, device: str | torch.device, *, without: Collection[str] = ()) -> None:
        """Move the modules that are not offloaded.

        Args:
            device: where to.
            without: names in the pipeline of further modules that stay where they are.
        """
        for name, part in self._pipe.components.items():
            if isinstance(part, nn.Module) and name not in {*self.offloaded, *without}:
                part.to(device)

    @contextmanager
    def using(self, *names: str) -> Iterator[None]:
        """Move modules to the transformer's device inside this context; contexts nest.

        Args:
            names: names in the pipeline; those that are not offloaded are there anyway.
        """
        called = [name for name in names if name in self.offloaded]
        self.offloaded.difference_update(called)
        try:
            for name in called:
                getattr(self._pipe, name).to(self.device)
            yield
        finally:
            for name in called:
                getattr(self._pipe, name).to(_HOST)
            self.offloaded.update(called)

    def remove(self, names: Collection[str]) -> None:
        """Drop modules from the pipeline and from memory.

        Args:
            names: names in the pipeline.
        """
        self._pipe.register_modules(**dict.fromkeys(names))
        self.offloaded.difference_update(names)
