"""Stable Diffusion 3 and 3.5 (arXiv 2403.03206)."""

from __future__ import annotations

from typing import ClassVar

from flexgym.generators.base import FlowGenerator


class SD3Generator(FlowGenerator):
    """One call of [unconditional, conditional] under guidance; three text encoders of which any may be missing."""

    pipelines: ClassVar = ("StableDiffusion3Pipeline",)
    encoded: ClassVar = ("encoder_hidden_states", None, "pooled_projections", None)
    joint_guidance: ClassVar = "unconditional first"
