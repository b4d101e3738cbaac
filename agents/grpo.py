"""GRPO with a clipped surrogate on the sampler's noisy steps (Flow-GRPO, arXiv 2505.05470).

``python -m agents.grpo --config FILE`` trains a recipe with ``algorithm.name: grpo``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from flexgym.algorithm import Algorithm, Loss, Need
from flexgym.algorithm_settings import AlgorithmSettings
from flexgym.core.metrics import Max, Mean, Share
from flexgym.core.settings import AsTuple
from flexgym.flow import clipped_surrogate, guarded_log_ratio, kl_penalty, noise_scale
from flexgym.process import SamplerSteps
from flexgym.replay import Replayed

Low = Annotated[float, Field(gt=0, le=1)]
ClipRange = Low | Annotated[tuple[Low, Annotated[float, Field(gt=0)]], AsTuple]


class SurrogateSettings(AlgorithmSettings):
    """Settings of a clipped surrogate with a KL penalty."""

    eta: float | None = Field(default=None, ge=0, description="amount of noise; null for that of the noise scale")
    clip_range: ClipRange = Field(default=1e-3, description="how far a ratio may leave 1: one number or [low, high]")
    kl_coeff: float = Field(default=0.0, ge=0, description="weight of the KL to the reference policy")
    kl_form: Literal["gaussian", "mean"] = Field(
        default="gaussian", description="KL of the step, or squared distance of its means"
    )
    ratio: Literal["plain", "guarded"] = Field(
        default="plain", description="likelihood ratio, or RatioNorm (GRPO-Guard)"
    )


S = TypeVar("S", bound=SurrogateSettings)


class Surrogate(Algorithm[S]):
    """Base of the algorithms with a clipped surrogate: the loss of PPO on each level, and a KL penalty."""

    @property
    def needs(self) -> frozenset[Need]:
        """See `Algorithm.needs`."""
        guarded: frozenset[Need] = frozenset({"old_mean"} if self.settings.ratio == "guarded" else ())
        reference: frozenset[Need] = frozenset({"reference_mean"} if self.settings.kl_coeff else ())
        return frozenset({"old_log_prob"}) | guarded | reference

    def loss(self, replayed: Replayed) -> Loss:
        """Compute the clipped surrogate (arXiv 1707.06347, eq. 7) plus the KL penalty, ``[P, G]``."""
        settings, shape = self.settings, replayed.advantage.shape
        log_ratio = replayed.log_ratio.flatten()
        if settings.ratio == "guarded":
            log_ratio = guarded_log_ratio(replayed.policy, replayed.old, replayed.target.flatten(0, 1))
        surrogate = clipped_surrogate(log_ratio, replayed.advantage.flatten(), clip_range=settings.clip_range)
        metrics: dict[str, Any] = {
            "policy/max_abs_log_ratio": Max(log_ratio.abs()),
            "policy/ratio_mean": Mean(log_ratio.exp()),
            "policy/clip_share": Share(surrogate.clipped.float().mean()),
            "loss/policy": Mean(surrogate.loss.mean()),
        }
        loss = surrogate.loss
        if settings.kl_coeff:
            penalty = kl_penalty(replayed.policy, replayed.reference, beta=settings.kl_coeff, form=settings.kl_form)
            metrics["loss/kl"] = Mean(penalty.mean() / settings.kl_coeff)
            loss = loss + penalty
        return Loss(loss.view(shape), metrics)


class GRPOSettings(SurrogateSettings):
    """Settings of `GRPO`."""

    noise: Literal["flow", "dance", "cps"] = Field(default="cps", description="noise of the trained steps")


class GRPO(Surrogate[GRPOSettings]):
    """Clipped policy gradient over the sampler's noisy steps."""

    Settings = GRPOSettings

    @property
    def process(self) -> SamplerSteps:
        """See `Algorithm.process`."""
        return SamplerSteps(noise_scale(self.settings.noise, eta=self.settings.eta))
