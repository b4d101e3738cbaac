"""Flow policies from FLUX.1 pipelines (github.com/black-forest-labs/flux)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from flexgym.core.errors import GeneratorError
from flexgym.flow.sigmas import Spacing
from flexgym.generators.family import Family, FlowPipeline


class FluxFamily(Family):
    """FLUX.1: tokens of 2x2 latents with explicit positions; the guidance of distilled weights is an input."""

    pipelines: ClassVar[tuple[str, ...]] = ("FluxPipeline",)
    encoded: ClassVar[tuple[str | None, ...]] = ("encoder_hidden_states", "pooled_projections", None)
    embedded_guidance: ClassVar[bool] = True
    packing: ClassVar = 2
    spacing: ClassVar[Spacing] = "linear unless flow sigmas"

    @classmethod
    def check_pipeline(cls, pipe: FlowPipeline) -> None:
        """Reject a DPM-Solver without dynamic shifting, which fails at the shift that ``__call__`` always passes."""
        kind = type(pipe.scheduler).__name__
        if kind.startswith("DPMSolver") and not pipe.scheduler.config.use_dynamic_shifting:
            raise GeneratorError(
                f"expected use_dynamic_shifting=True in the config of {kind}, got False: {type(pipe).__name__} passes a"
                " shift, and this scheduler takes one only then"
            )

    def timestep(self, time: Tensor, held: torch.dtype) -> Tensor:
        """Return the noise level itself, by way of rounded thousandths."""
        return time.to(held) / 1000

    def pack(self, latents: Tensor) -> Tensor:
        """Pack ``[B, C, H, W]`` to ``[B, H/2 * W/2, 4C]``."""
        rows, channels, height, width = latents.shape
        return self.pipe._pack_latents(latents, rows, channels, height, width)

    def unpack(self, hidden: Tensor) -> Tensor:
        """Unpack ``[B, H/2 * W/2, 4C]`` to ``[B, C, H, W]``."""
        size = (self.settings.height, self.settings.width, self.spatial_factor())
        return self.pipe._unpack_latents(hidden, *size).view(len(hidden), *self.latent_shape)

    def extra_arguments(self, hidden: Tensor, text: Mapping[str, Tensor]) -> dict[str, Any]:
        """Return the positions of the tokens, and the guidance scale where the weights were distilled with it."""
        height, width = (side // self.packing for side in self.latent_shape[-2:])
        length = text["encoder_hidden_states"].shape[1]
        scale = torch.full((len(hidden),), self.settings.guidance_scale, dtype=torch.float32, device=hidden.device)
        return {
            "img_ids": self.pipe._prepare_latent_image_ids(len(hidden), height, width, hidden.device, hidden.dtype),
            "txt_ids": hidden.new_zeros(length, 3),
            "guidance": scale if self.transformer.config.guidance_embeds else None,
        }
