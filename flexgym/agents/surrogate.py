"""Settings and metrics that the algorithms with a clipped surrogate share."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from flexgym.algorithm.settings import AlgorithmSettings, ClipRange
from flexgym.core.metrics import Max, Mean, Metric, Share
from flexgym.flow import Surrogate


class SurrogateSettings(AlgorithmSettings):
    """Settings of a clipped surrogate."""

    eta: float | None = Field(default=None, ge=0, description="amount of noise; null takes the default of the noise")
    clip_range: ClipRange = Field(default=1e-3, description="how far a ratio may leave 1, one number or [low, high]")


def surrogate_metrics(surrogate: Surrogate, log_ratio: Tensor) -> dict[str, Metric]:
    """Return what is logged of a surrogate: the loss, the ratio, and how much of it is clipped."""
    return {
        "policy/max_abs_log_ratio": Max(log_ratio.abs(), label="max |log ratio|", format=".1e", priority=0),
        "policy/ratio_mean": Mean(log_ratio.exp(), label="ratio mean", format=".4f", priority=1),
        "policy/clip_share": Share(surrogate.clipped.float().mean(), label="clipped", priority=2),
        "loss/policy": Mean(surrogate.loss.mean()),
    }
