"""How much of a pipeline stands on the device at once: the autoencoder's tiles."""

from __future__ import annotations

from flexgym.errors import GeneratorError
from flexgym.generators.training import Trainable


class Placed(Trainable):
    """Where the frozen parts of a pipeline stand, and how much of a sample they take at once.

    Args:
        pipe: the pipeline.
    """

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
