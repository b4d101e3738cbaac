"""Stable Diffusion 3 and 3.5 (arXiv 2403.03206)."""

from __future__ import annotations

from typing import ClassVar

from flexgym.flow import dynamic_shift_mu
from flexgym.generators.family import Family


class SD3Family(Family):
    """Stable Diffusion 3: guidance in one call; three text encoders of which any may be missing."""

    pipelines: ClassVar = ("StableDiffusion3Pipeline",)
    encoded: ClassVar = ("encoder_hidden_states", None, "pooled_projections", None)
    joint_guidance: ClassVar = "unconditional first"

    def shift_mu(self) -> float | None:
        """Return the shift up to 1.16 that ``__call__`` takes where the scheduler names none, as UniPC's does not."""
        return (
            None if "max_shift" in self.pipe.scheduler.config else dynamic_shift_mu(self.image_tokens(), max_shift=1.16)
        )
