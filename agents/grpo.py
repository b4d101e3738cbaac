"""GRPO with a clipped surrogate on the sampler's noisy steps (Flow-GRPO, arXiv 2505.05470)."""

from __future__ import annotations

from typing import Literal, TypeVar

from pydantic import Field

from agents.base import run_agent
from flexgym.algorithm.base import Algorithm, Loss
from flexgym.algorithm.process import SamplerSteps
from flexgym.algorithm.replay import Replayed
from flexgym.algorithm.settings import AlgorithmSettings, ClipRange
from flexgym.core.metrics import Max, Mean, Metric, Share
from flexgym.flow import clipped_surrogate, guarded_log_ratio, noise_scale


class SurrogateSettings(AlgorithmSettings):
    """Settings of a clipped surrogate."""

    eta: float | None = Field(default=None, ge=0, description="amount of noise; null takes the default of the noise")
    clip_range: ClipRange = Field(default=1e-3, description="how far a ratio may leave 1, one number or [low, high]")
    ratio: Literal["plain", "guarded"] = Field(default="plain", description="plain, or RatioNorm (arXiv 2510.22319)")


S = TypeVar("S", bound=SurrogateSettings)


class Surrogate(Algorithm[S]):
    """Base of the algorithms with a clipped surrogate: the loss of PPO on each level."""

    @property
    def needs(self) -> frozenset[str]:
        """The log density when sampled, and the mean for a guarded ratio."""
        return frozenset({"old_log_prob", "old_mean"} if self.settings.ratio == "guarded" else {"old_log_prob"})

    def loss(self, replayed: Replayed) -> Loss:
        """Compute the clipped surrogate (arXiv 1707.06347, eq. 7), ``[L, P, G]``."""
        settings, log_ratio = self.settings, replayed.log_ratio.flatten()
        if settings.ratio == "guarded":
            log_ratio = guarded_log_ratio(replayed.policy, replayed.under("old"), replayed.target.flatten(0, 2))
        surrogate = clipped_surrogate(log_ratio, replayed.advantage.flatten(), clip_range=settings.clip_range)
        metrics: dict[str, Metric] = {
            "policy/max_abs_log_ratio": Max(log_ratio.abs(), label="max |log ratio|", format=".1e", priority=0),
            "policy/ratio_mean": Mean(log_ratio.exp(), label="ratio mean", format=".4f", priority=1),
            "policy/clip_share": Share(surrogate.clipped.float().mean(), label="clipped", priority=2),
            "loss/policy": Mean(surrogate.loss.mean()),
        }
        return Loss(surrogate.loss.view(replayed.advantage.shape), metrics)


class GRPOSettings(SurrogateSettings):
    """Settings of `GRPO`: those of the surrogate, and the noise."""

    noise: Literal["flow", "dance", "cps"] = Field(default="cps", description="noise of the trained steps")


class GRPO(Surrogate[GRPOSettings]):
    """Clipped policy gradient over the sampler's noisy steps."""

    Settings = GRPOSettings

    @property
    def process(self) -> SamplerSteps:
        """Noisy steps of the sampler inside the window."""
        return SamplerSteps(noise_scale(self.settings.noise, eta=self.settings.eta))


if __name__ == "__main__":
    run_agent("agents.grpo", algorithm="grpo", default_recipe="pref_grpo_sd35_medium.yaml", summary=__doc__)
