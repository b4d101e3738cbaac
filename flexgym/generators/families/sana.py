"""Flow policies from Sana pipelines (arXiv 2410.10629)."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import torch
from torch import Tensor

from flexgym.core.errors import GeneratorError
from flexgym.generators.family import Family, FlowPipeline


class SanaFamily(Family):
    """Sana: a long instruction precedes every text but the negative one; guidance in one call."""

    pipelines: ClassVar = ("SanaPipeline",)
    encoded: ClassVar = ("encoder_hidden_states", "encoder_attention_mask", None, None)
    # the size of a sample is that of the settings, never the nearest of a list
    call_options: ClassVar = {"use_resolution_binning": False}
    joint_guidance: ClassVar = "unconditional first"
    full_precision: ClassVar = True

    @classmethod
    def check_pipeline(cls, pipe: FlowPipeline) -> None:
        """Reject a transformer that also predicts a variance."""
        config = pipe.transformer.config
        if config.out_channels != config.in_channels:
            raise GeneratorError(
                f"expected as many channels out of the transformer as into it ({config.in_channels}),"
                f" got {config.out_channels}: a learned variance has no place in flow matching"
            )

    def encode_options(self, text: str, *, negative: bool) -> dict[str, Any]:
        """Return the instruction that ``__call__`` has by default, which no negative prompt has."""
        own = inspect.signature(self.pipe.__call__).parameters["complex_human_instruction"].default
        return {"complex_human_instruction": None if negative else own}

    def image_seq_len(self) -> None:
        """Return None: the pipeline never shifts its noise levels by size."""

    def timestep(self, time: Tensor, held: torch.dtype) -> Tensor:
        """Return the time step times a scale of the checkpoint."""
        return time * self.transformer.config.timestep_scale
