"""Stable Diffusion 3 and 3.5 (arXiv 2403.03206)."""

from __future__ import annotations

from typing import ClassVar

from flexgym.generators.family import Family


class SD3Family(Family):
    """Stable Diffusion 3: guidance in one call; three text encoders of which any may be missing."""

    pipelines: ClassVar = ("StableDiffusion3Pipeline",)
    encoded: ClassVar = ("encoder_hidden_states", None, "pooled_projections", None)
    joint_guidance: ClassVar = "unconditional first"
