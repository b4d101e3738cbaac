"""Flow policies from Z-Image pipelines (arXiv 2511.22699)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from flexgym.generators.conditioning import Embedding
from flexgym.generators.family import Family


class ZImageFamily(Family):
    """Z-Image: lists of images and of texts of any length; time and velocity are reversed."""

    pipelines: ClassVar = ("ZImagePipeline",)
    default_side: ClassVar = 1024
    joint_guidance: ClassVar = "conditional first"
    full_precision: ClassVar = True
    spacing: ClassVar = "linear32"

    @property
    def guided(self) -> bool:
        """True above 0: the scale counts from the conditional velocity."""
        return self.cfg_scale > 0

    def patch(self) -> int:
        """Return the patch size that the pipeline uses."""
        return int(self.transformer.config.all_patch_size[0])

    def timestep(self, time: Tensor, held: torch.dtype) -> Tensor:
        """Return 0 for noise up to 1 for the sample."""
        return (1000 - time) / 1000

    def embedding(self, outputs: Sequence[Any]) -> Embedding:
        """Return the text, and a mask of the part of a row that it fills."""
        states = outputs[0][0][None]
        return {"texts": states, "mask": torch.ones(states.shape[:2])}

    def forward(self, hidden: Tensor, timestep: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        """Call the transformer with every text without its padding."""
        lengths = text["mask"].sum(1).int().tolist()
        texts = [row[:length] for row, length in zip(text["texts"], lengths, strict=True)]
        images = list(hidden.unsqueeze(2).unbind())
        velocities = self.transformer(images, timestep, texts, return_dict=False)[0]
        return -torch.stack(list(velocities)).squeeze(2)

    def combine(self, conditional: Tensor, unconditional: Tensor, timestep: Tensor) -> Tensor:
        """Apply guidance, counted from the conditional velocity."""
        return conditional + self.cfg_scale * (conditional - unconditional)
