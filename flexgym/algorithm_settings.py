"""Settings that every algorithm has."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flexgym.core.settings import Settings
from flexgym.flow import WindowSchedule


class WindowSettings(Settings):
    """Denoising steps that are trained in an iteration."""

    size: int | None = Field(3, ge=1, description="trained steps of an iteration; null with strategy 'all'")
    strategy: Literal["random", "progressive", "all"] = Field(
        "random", description="draw the first step, move it on, or train all steps but the last"
    )
    first: tuple[int, int] | None = Field(
        (0, 3), description="lowest and highest first step, both included; null allows all"
    )
    every: int = Field(25, ge=1, description="iterations at each place, with strategy 'progressive'")
    stride: int = Field(1, ge=1, description="steps between places, with strategy 'progressive'")

    def schedule(self, num_steps: int) -> WindowSchedule:
        """Return the window of every iteration.

        Args:
            num_steps: denoising steps T.

        Raises:
            ConfigError: a window that does not lie within the steps.
        """
        return WindowSchedule(num_steps=num_steps, **self.model_dump())


class GuidanceSettings(Settings):
    """Guidance scale of each role; null takes generator.sampling.guidance_scale."""

    rollout: float | None = Field(None, ge=0, description="while sampling for training")
    training: float | None = Field(None, ge=0, description="while replaying with the weights that train")
    reference: float | None = Field(None, ge=0, description="while replaying with the reference policy")
    verification: float | None = Field(None, ge=0, description="while sampling held-out prompts")


class AlgorithmSettings(Settings):
    """Settings under ``algorithm`` in a recipe."""

    name: str = Field("", description="module of the package agents, or package.module:Class")
    window: WindowSettings = Field(default_factory=WindowSettings, description="trained denoising steps")
    guidance: GuidanceSettings = Field(default_factory=GuidanceSettings, description="guidance scale of each role")
