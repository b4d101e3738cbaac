"""Lumina-Image 2.0 (arXiv 2503.21758)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from flexgym.generators.conditioning import Embedding
from flexgym.generators.family import Family

_MASK = "encoder_attention_mask"


class Lumina2Family(Family):
    """Lumina-Image 2.0: a sentence precedes every text but the negative one; time and velocity are reversed."""

    pipelines: ClassVar = ("Lumina2Pipeline",)
    encoded: ClassVar = ("encoder_hidden_states", _MASK)
    spacing: ClassVar = "linear"

    def encode_options(self, text: str, *, negative: bool) -> dict[str, Any]:
        """Pass the text of the unconditional branch as the negative prompt, which goes without the sentence."""
        if not negative:
            return {}
        given = {"prompt_embeds": torch.zeros(1, 1, 1), "prompt_attention_mask": torch.zeros(1, 1)}
        return {"prompt": None, "negative_prompt": text, "do_classifier_free_guidance": True, **given}

    def embedding(self, outputs: Sequence[Any]) -> Embedding:
        """Take the negative prompt where there is one."""
        return super().embedding(outputs[:2] if outputs[2] is None else outputs[2:])

    def image_seq_len(self) -> int:
        """Return the channels of the latents: the pipeline shifts the noise levels by these in place of the tokens."""
        return self.latent_channels()

    def timestep(self, time: Tensor, held: torch.dtype) -> Tensor:
        """Return 0 for noise up to 1 for the sample."""
        return 1 - time / self.pipe.scheduler.config.num_train_timesteps

    def call_latents(self, latents: Tensor) -> Tensor:
        """Return the precision of the transformer, which the pipeline leaves to the caller."""
        return latents.to(self.dtype)

    def forward(self, hidden: Tensor, timestep: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        """Reverse the velocity, which is sample minus noise here; the transformer counts tokens by an integer mask."""
        return -super().forward(hidden, timestep, {**text, _MASK: text[_MASK].int()})

    def combine(self, conditional: Tensor, unconditional: Tensor, timestep: Tensor) -> Tensor:
        """Apply guidance, then scale every row of latents to its norm without guidance."""
        guided = super().combine(conditional, unconditional, timestep)
        return guided * (torch.norm(conditional, dim=-1, keepdim=True) / torch.norm(guided, dim=-1, keepdim=True))
