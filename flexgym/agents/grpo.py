"""GRPO with a clipped surrogate on the sampler's noisy steps (Flow-GRPO, arXiv 2505.05470), and its variants.

``noise: dance`` is DanceGRPO (arXiv 2505.07818), ``noise: cps`` Flow-CPS (arXiv 2509.05952), a moving window MixGRPO
(arXiv 2507.21802), ``ratio: guarded`` GRPO-Guard (arXiv 2510.22319), ``step_weight: std`` TempFlow-GRPO (2508.04324).
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field

from flexgym.agents.base import Agent
from flexgym.agents.surrogate import SurrogateSettings, surrogate_metrics
from flexgym.algorithm.base import Algorithm, Loss
from flexgym.algorithm.process import SamplerSteps
from flexgym.algorithm.replay import OLD, OLD_LOG_PROB, Replayed, mean_under
from flexgym.flow import StepWeight, clipped_surrogate, guarded_log_ratio, noise_scale, sequence_log_ratio


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
    off_policy = ("clip_range",)
    skips_dead = True

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


main = Agent("grpo", algorithm="grpo", summary=__doc__ or "")
