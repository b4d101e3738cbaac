"""What of a pipeline stands on the device, and when: parts that rest beside it, and the autoencoder's tiles."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn

from flexgym.core.errors import GeneratorError
from flexgym.generators.training import Trainable

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline

_REST = "cpu"
_ENCODERS = ("text_encoder", "image_encoder")


class Placed(Trainable):
    """Where the frozen parts of a pipeline stand, and how much of a sample they take at once.

    Args:
        pipe: the pipeline.
    """

    def __init__(self, pipe: DiffusionPipeline) -> None:
        super().__init__(pipe)
        self._resting: set[str] = set()  # shared by all views

    def text_encoders(self) -> dict[str, Any]:
        """What encodes prompts and is in memory, by its name in the pipeline: text encoders, an encoder of pictures."""
        parts = self.pipe.components.items()
        return {name: part for name, part in parts if part is not None and name.startswith(_ENCODERS)}

    def offload(self) -> None:
        """Let text encoders and autoencoder rest in the memory of the host; for all views.

        They come to the transformer's device when a new text is encoded or a sample decoded, and leave after it.
        """
        for name in (*self.text_encoders(), "vae"):
            getattr(self.pipe, name).to(_REST)
            self._resting.add(name)

    def to(self, device: str | torch.device, *, without: Collection[str] = ()) -> None:
        """Move the pipeline, except for what rests.

        Args:
            device: of all modules that do not rest.
            without: names in the pipeline of further modules that stay where they are.
        """
        for name, part in self.pipe.components.items():
            if isinstance(part, nn.Module) and name not in {*self._resting, *without}:
                part.to(device)

    @contextmanager
    def _acting(self, *names: str) -> Iterator[None]:
        """Within this context these parts stand on the transformer's device; may be nested."""
        called = [name for name in names if name in self._resting]
        self._resting.difference_update(called)
        try:
            for name in called:
                getattr(self.pipe, name).to(self.device)
            yield
        finally:
            for name in called:
                getattr(self.pipe, name).to(_REST)
            self._resting.update(called)

    def tile_autoencoder(self) -> None:
        """Decode samples in overlapping tiles, by diffusers' own switch; for all views.

        Samples no larger than a tile, whose size is the autoencoder's, are decoded as before. In larger ones the tiles
        are blended where they overlap, so that they differ a little from those decoded in one piece.

        Raises:
            GeneratorError: when the autoencoder cannot do it.
        """
        vae = self.pipe.vae
        if not hasattr(vae, "use_tiling"):
            raise GeneratorError(
                f"expected an autoencoder that decodes in tiles, got {type(vae).__name__}, which cannot: leave out"
                " vae_tiling, and make fewer or smaller samples at once"
            )
        vae.enable_tiling()
