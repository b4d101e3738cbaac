"""Lumina-Image 2.0 (arXiv 2503.21758)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from flexgym.generators.base import FlowGenerator
from flexgym.generators.conditioning import Embedding

_MASK = "encoder_attention_mask"


class Lumina2Generator(FlowGenerator):
    """Prompts follow a sentence to the text encoder, the empty one does not; time and velocity run the other way."""

    pipelines: ClassVar = ("Lumina2Pipeline",)
    encoded: ClassVar = ("encoder_hidden_states", _MASK)
    spacing: ClassVar = "linear"

    def encode_options(self, text: str) -> dict[str, Any]:
        """The empty text is encoded as the negative prompt, which alone goes without the sentence."""
        if text:
            return {}
        given = {"prompt_embeds": torch.zeros(1, 1, 1), "prompt_attention_mask": torch.zeros(1, 1)}
        return {"prompt": None, "do_classifier_free_guidance": True, **given}

    def embedding(self, outputs: Sequence[Any]) -> Embedding:
        """The negative prompt where there is one."""
        return super().embedding(outputs[:2] if outputs[2] is None else outputs[2:])

    def image_seq_len(self) -> int:
        """The channels of the latents: its pipeline shifts the noise levels by these in place of the tokens."""
        return self.latent_channels()

    def timestep(self, sigma: Tensor) -> Tensor:
        """From 0 for noise to 1 for the sample."""
        return 1 - sigma * 1000.0 / self.pipe.scheduler.config.num_train_timesteps

    def call_latents(self, latents: Tensor) -> Tensor:
        """In the precision of the transformer, which its pipeline leaves to the caller."""
        return latents.to(self.dtype)

    def forward(self, hidden: Tensor, timestep: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        """Its velocity is sample less noise; it counts the tokens of a text, so that the mask has whole numbers."""
        return -super().forward(hidden, timestep, {**text, _MASK: text[_MASK].int()})

    def combine(self, conditional: Tensor, unconditional: Tensor) -> Tensor:
        """Guidance, then every row of latents as long as it was without."""
        guided = super().combine(conditional, unconditional)
        return guided * (torch.norm(conditional, dim=-1, keepdim=True) / torch.norm(guided, dim=-1, keepdim=True))
