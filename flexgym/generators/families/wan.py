"""Wan 2.1 text to video (arXiv 2503.20314)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from flexgym.errors import GeneratorError
from flexgym.generators.base import FlowGenerator, FlowPipeline


class WanGenerator(FlowGenerator):
    """Conditional, then unconditional call; latents normalised by a mean and a deviation for each channel."""

    pipelines: ClassVar = ("WanPipeline",)
    modality: ClassVar = "video"
    encoded: ClassVar = ("encoder_hidden_states", None)

    @classmethod
    def check_pipeline(cls, pipe: FlowPipeline) -> None:
        """Refuse Wan 2.2, whose two transformers or per-token time steps need another velocity."""
        if pipe.config.get("boundary_ratio") is not None or pipe.config.get("expand_timesteps"):
            raise GeneratorError(
                "expected a Wan 2.1 pipeline with one transformer, got Wan 2.2 (boundary_ratio or expand_timesteps)"
            )

    def image_seq_len(self) -> None:
        """Wan's pipeline never shifts its noise levels by size."""

    def to_autoencoder(self, latents: Tensor) -> Tensor:
        """Undo the normalisation of each channel."""
        config = self.pipe.vae.config
        mean = torch.tensor(config.latents_mean).view(1, -1, 1, 1, 1).to(latents)
        # the pipeline divides by the inverse deviation; multiplying instead would differ in the last bit
        inverse = 1.0 / torch.tensor(config.latents_std).view(1, -1, 1, 1, 1).to(latents)
        return latents / inverse + mean
