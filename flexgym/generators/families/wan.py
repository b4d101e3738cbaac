"""Wan 2.1 and 2.2 text to video (arXiv 2503.20314)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn

from flexgym.core.errors import GeneratorError
from flexgym.generators.experts import join_rows, rows_of_experts
from flexgym.generators.family import Family, FlowPipeline


class WanFamily(Family):
    """Wan: two calls under guidance; Wan 2.2 has a second transformer for low noise, or time steps by token."""

    pipelines: ClassVar = ("WanPipeline",)
    modality: ClassVar = "video"
    encoded: ClassVar = ("encoder_hidden_states", None)
    full_precision: ClassVar = "latents"

    @classmethod
    def check_pipeline(cls, pipe: FlowPipeline) -> None:
        """Reject a ``boundary_ratio`` without a second transformer for the noise levels below it."""
        if pipe.config.boundary_ratio is not None and pipe.transformer_2 is None:
            raise GeneratorError(
                f"expected a transformer_2 for the noise levels below boundary_ratio={pipe.config.boundary_ratio},"
                " got none: load the complete pipeline, or one of Wan 2.1 with boundary_ratio=None"
            )

    def denoisers(self) -> dict[str, nn.Module]:
        """Return for Wan 2.2 A14B ``transformer`` for high noise and ``transformer_2`` for low noise."""
        if self.pipe.config.boundary_ratio is None:
            return super().denoisers()
        return {**super().denoisers(), "transformer_2": self.pipe.transformer_2}

    def image_seq_len(self) -> None:
        """Return None: the pipeline never shifts its noise levels by size."""

    def forward(self, hidden: Tensor, timestep: Tensor, text: Mapping[str, Tensor]) -> Tensor:
        """Call for each row the transformer of its noise level."""
        if self.pipe.config.boundary_ratio is None:
            return self._call(self.transformer, hidden, timestep, text=text)
        models = (self.transformer, self.pipe.transformer_2)
        parts = []
        for expert, rows in rows_of_experts(timestep >= _boundary(self.pipe)):
            own = {name: tensor[rows] for name, tensor in text.items()}
            parts.append((rows, self._call(models[expert], hidden[rows], timestep[rows], text=own)))
        return join_rows(parts, hidden)

    def combine(self, conditional: Tensor, unconditional: Tensor, timestep: Tensor) -> Tensor:
        """Apply to each row the guidance of its transformer."""
        second = self.settings.guidance_scale_2
        if second is None:
            return super().combine(conditional, unconditional, timestep)
        families, parts = (self, self.guided_by(second)), []
        for expert, rows in rows_of_experts(timestep >= _boundary(self.pipe)):
            own = (conditional[rows], unconditional[rows], timestep[rows])
            parts.append((rows, super(WanFamily, families[expert]).combine(*own)))
        return join_rows(parts, conditional)

    def _call(self, model: Any, hidden: Tensor, timestep: Tensor, *, text: Mapping[str, Tensor]) -> Tensor:
        if self.pipe.config.expand_timesteps:
            timestep = self.by_token(timestep, hidden)
        return model(hidden_states=hidden, timestep=timestep, **text, return_dict=False)[0]

    def by_token(self, timestep: Tensor, hidden: Tensor) -> Tensor:
        """Expand time steps ``[B]`` to the tokens, ``[B, tokens]``."""
        return timestep[:, None].expand(-1, hidden.shape[2] * self.image_tokens())


def _boundary(pipe: FlowPipeline) -> float:
    """Return the time step from which on the transformer for high noise is used."""
    return pipe.config.boundary_ratio * pipe.scheduler.config.num_train_timesteps
