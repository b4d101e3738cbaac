"""GRPO with a clipped surrogate on the sampler's noisy steps (Flow-GRPO, arXiv 2505.05470), and its variants.

``noise: dance`` is DanceGRPO (arXiv 2505.07818), ``noise: cps`` Flow-CPS (arXiv 2509.05952), a moving window MixGRPO
(arXiv 2507.21802), ``ratio: guarded`` GRPO-Guard (arXiv 2510.22319), ``step_weight: std`` TempFlow-GRPO (2508.04324).
"""

from __future__ import annotations

from typing import Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from agents.base import run_agent
from flexgym.algorithm.base import Algorithm, Loss
from flexgym.algorithm.process import SamplerSteps
from flexgym.algorithm.replay import OLD, OLD_LOG_PROB, Replayed, mean_under
from flexgym.algorithm.settings import AlgorithmSettings, ClipRange
from flexgym.core.metrics import Max, Mean, Metric, Share
from flexgym.flow import StepWeight, Surrogate, clipped_surrogate, guarded_log_ratio, noise_scale, sequence_log_ratio


class SurrogateSettings(AlgorithmSettings):
    """Settings of a clipped surrogate."""

    eta: float | None = Field(default=None, ge=0, description="amount of noise; null takes the default of the noise")
    clip_range: ClipRange = Field(default=1e-3, description="how far a ratio may leave 1, one number or [low, high]")


S = TypeVar("S", bound=SurrogateSettings)


def surrogate_metrics(surrogate: Surrogate, log_ratio: Tensor) -> dict[str, Metric]:
    """Return what is logged of a surrogate: the loss, the ratio, and how much of it is clipped."""
    return {
        "policy/max_abs_log_ratio": Max(log_ratio.abs(), label="max |log ratio|", format=".1e", priority=0),
        "policy/ratio_mean": Mean(log_ratio.exp(), label="ratio mean", format=".4f", priority=1),
        "policy/clip_share": Share(surrogate.clipped.float().mean(), label="clipped", priority=2),
        "loss/policy": Mean(surrogate.loss.mean()),
    }


class GRPOSettings(SurrogateSettings):
    """Settings of `GRPO`: the noise, the ratio and the weight of each step."""

    noise: Literal["flow", "dance", "cps", "precise", "dance_precise"] = Field(
        default="cps", description="noise of the trained steps"
    )
    ratio: Literal["plain", "guarded", "sequence"] = Field(
        default="plain",
        description="one ratio for each step, RatioNorm with a division by the step length (GRPO-Guard), or one for all"
        " trained steps of a sample (GSPO)",
    )
    step_weight: StepWeight = Field(default="none", description="factor of the loss of each step")


class GRPO(Algorithm[GRPOSettings]):
    """Clipped policy gradient over the sampler's noisy steps."""

    Settings = GRPOSettings

    @property
    def process(self) -> SamplerSteps:
        """Noisy steps of the sampler inside the window."""
        return SamplerSteps(noise_scale(self.settings.noise, eta=self.settings.eta))

    @property
    def needs(self) -> frozenset[str]:
        """The log density when sampled, and the mean for a guarded ratio."""
        return frozenset({OLD_LOG_PROB, mean_under(OLD)} if self.settings.ratio == "guarded" else {OLD_LOG_PROB})

    @property
    def stacked(self) -> bool:
        """All levels in one forward for a ratio of the sequence."""
        return self.settings.stacked or self.settings.ratio == "sequence"

    @property
    def off_policy(self) -> tuple[str, ...]:
        """The clip range of the likelihood ratio."""
        return ("clip_range",)

    def loss(self, replayed: Replayed) -> Loss:
        """Compute the clipped surrogate (arXiv 1707.06347, eq. 7) times the weight of the step, ``[L, P, G]``."""
        settings, length = self.settings, replayed.sigma - replayed.sigma_next
        log_ratio = replayed.log_ratio
        if settings.ratio == "guarded":
            rows = guarded_log_ratio(replayed.policy, replayed.under(OLD), replayed.target.flatten(0, 2))
            log_ratio = rows.view(log_ratio.shape)
        if settings.ratio == "sequence":
            log_ratio = sequence_log_ratio(log_ratio).expand(log_ratio.shape)
        surrogate = clipped_surrogate(log_ratio, replayed.advantage, clip_range=settings.clip_range)
        loss = surrogate.loss / length if settings.ratio == "guarded" else surrogate.loss
        if settings.step_weight != "none":
            divisors = {"std": torch.ones_like(length), "std/h": length, "std/K": replayed.velocity_scale}
            loss = loss * replayed.std / divisors[settings.step_weight]
        return Loss(loss, surrogate_metrics(surrogate, log_ratio))


if __name__ == "__main__":
    run_agent("agents.grpo", algorithm="grpo", default_recipe="grpo_shapes_t2i.yaml", summary=__doc__)
