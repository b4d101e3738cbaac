"""The settings that every algorithm has: its name, the trained steps, and the guidance of each role."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import Field, model_validator

from flexgym.core.problems import Problem, raise_problems
from flexgym.core.settings import AsTuple, IntPair, Settings

if TYPE_CHECKING:
    from flexgym.algorithm.levels import LevelDraw
    from flexgym.flow import WindowSchedule

Role = Literal["rollout", "training", "reference", "verification"]
Positive = Annotated[float, Field(gt=0)]
ClipRange = Positive | Annotated[tuple[Annotated[float, Field(gt=0, le=1)], Positive], AsTuple]
"""How far a likelihood ratio may leave 1: one number, or one for each side (the lower at most 1)."""


class WindowSettings(Settings):
    """The window of neighboring denoising steps that each iteration trains, see `flexgym.flow.WindowSchedule`."""

    size: int | None = Field(default=None, ge=1, description="trained steps W; left out with strategy 'all'")
    strategy: Literal["random", "progressive", "all"] = Field(
        default="random",
        description="first step drawn anew in each iteration, moved on over the run, or all steps but the last",
    )
    first: IntPair | None = Field(default=None, description="lowest and highest first step; all that fit by default")
    every: Annotated[int, Field(ge=1)] | IntPair = Field(
        default=25,
        description="iterations at each place, with strategy 'progressive'; a pair [from, to] decreases them",
    )
    decay: Annotated[tuple[int, float], AsTuple] | None = Field(
        default=None,
        description="[step, rate]: exponential decrease of the iterations at places after a step, with 'progressive'",
    )
    stride: int = Field(
        default=1, ge=1, description="steps between two places, at most size, with strategy 'progressive'"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.strategy == "all":
            if self.size is not None or self.first is not None:
                raise ValueError("strategy 'all' takes neither size nor first; leave them out, or choose 'random'")
        elif self.size is None:
            raise ValueError(f"strategy {self.strategy!r} needs a size, the number of trained steps; got none")
        if self.strategy == "progressive" and self.size is not None and self.stride > self.size:
            raise ValueError(
                f"expected a stride of at most size={self.size}, got {self.stride}: the steps between two windows would"
                " never be trained"
            )
        if self.first is not None and not 0 <= self.first[0] <= self.first[1]:
            raise ValueError(f"expected first=[low, high] with 0 <= low <= high, got {list(self.first)}")
        return self

    def misfit(self, num_steps: int) -> str:
        """Return why the window cannot lie within a number of denoising steps; empty where it can."""
        size, (_, high) = self.size or 1, self.first or (0, 0)
        if size <= num_steps and high + size <= num_steps:
            return ""
        if size > num_steps:
            return f"expected a size of at most the {num_steps} denoising steps, got {size}"
        return (
            f"expected first steps up to {num_steps - size}, so that {size} steps lie within the {num_steps} denoising"
            f" steps; got first={list(self.first or ())}"
        )

    def schedule(self, num_steps: int) -> WindowSchedule:
        """Return the window of every iteration for a number of denoising steps.

        Args:
            num_steps: denoising steps T of a sample.

        Raises:
            ConfigError: a window would not lie within the steps.
        """
        from flexgym.flow import WindowSchedule

        return WindowSchedule(num_steps, **dict(self))


class GuidanceSettings(Settings):
    """The guidance scale of each role; the generator's own where a role has none."""

    rollout: float | None = Field(default=None, ge=0, description="guidance scale of the samples that are trained on")
    training: float | None = Field(default=None, ge=0, description="guidance scale of the policy in the replayed steps")
    reference: float | None = Field(
        default=None, ge=0, description="guidance scale of the reference in the replayed steps"
    )
    verification: float | None = Field(default=None, ge=0, description="guidance scale of the held-out samples")


_DRAWN = ("count", "low", "high", "stratified", "shift")
"""Settings of levels that are drawn."""
_GRID = (
    "has no effect with source: grid, whose levels are the steps of algorithm.window; leave it out, or choose source:"
    " uniform or logit_normal"
)


class LevelSettings(Settings):
    """The noise levels at which finished samples are trained, see `flexgym.algorithm.levels.LevelDraw`."""

    source: Literal["grid", "uniform", "logit_normal"] = Field(
        default="grid", description="the steps of the window on the sampler's grid, or levels between low and high"
    )
    count: int | None = Field(
        default=None,
        ge=1,
        description="levels of each sample, 4 by default; with grid the size of the window takes its place",
    )
    low: float = Field(default=0.05, gt=0, lt=1, description="lowest level")
    high: float = Field(default=1.0, gt=0, le=1, description="highest level")
    stratified: bool = Field(default=False, description="draw one level from each of as many equal parts of the range")
    shift: float = Field(
        default=1.0, gt=0, description="shift of drawn levels toward noise, such as 3 for Stable Diffusion 3"
    )
    shared: bool = Field(default=False, description="same levels and noise for all samples of a group (V-GRPO)")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"expected low below high, got low={self.low} and high={self.high}")
        if self.source == "grid":
            fields = type(self).model_fields
            idle = [name for name in _DRAWN if getattr(self, name) != fields[name].default]
            raise_problems(Problem((name,), _GRID) for name in idle)
        return self

    @property
    def draw(self) -> LevelDraw:
        """Return how the levels are drawn."""
        from flexgym.algorithm.levels import LevelDraw  # loads torch, for which a help text does not wait

        return LevelDraw(**{**dict(self), "count": self.count or 4})


class PenaltySettings(Settings):
    """A penalty on the distance of the policy from other weights."""

    coeff: float = Field(default=0.0, ge=0, description="weight of the penalty; beta of flow_grpo times |dt|")
    form: Literal["gaussian", "mean", "velocity", "clean"] = Field(
        default="gaussian",
        description="KL divergence per dimension, or squared distance of means, velocities or predicted clean latents",
    )
    gated: bool = Field(default=False, description="hold the samples alone that training.gate finds doubtful (GARDO)")


class AlgorithmSettings(Settings):
    """The base of each algorithm's own settings; a subclass adds fields."""

    name: str = Field(default="", description="module of the package agents, such as grpo, or 'package.module:Class'")
    window: WindowSettings = Field(
        default=WindowSettings(size=3, first=(0, 3)),
        description="the trained denoising steps; given ones replace all of these",
    )
    guidance: GuidanceSettings = GuidanceSettings()
    stacked: bool = Field(
        default=False, description="replay all trained levels of a sample in one forward, for losses that couple them"
    )
    penalties: dict[str, PenaltySettings] = Field(
        default={},
        description="penalties by the weights that the policy is held to: reference, ema, old or a copy of the"
        " algorithm",
    )
