"""Flow-DPPO (arXiv 2606.11025): policy gradient whose rows drop out once they have moved far enough, without a clip.

``python -m agents.flow_dppo --config FILE`` trains a recipe with ``algorithm.name: flow_dppo``. With one optimizer step
per rollout no row has moved yet: set ``training.num_updates`` or ``training.passes``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flexgym.agents.base import Agent
from flexgym.agents.surrogate import surrogate_metrics
from flexgym.algorithm.base import Algorithm, Loss
from flexgym.algorithm.process import SamplerSteps
from flexgym.algorithm.replay import OLD, OLD_LOG_PROB, Replayed, mean_under
from flexgym.algorithm.settings import AlgorithmSettings
from flexgym.flow import masked_surrogate, noise_scale


class FlowDPPOSettings(AlgorithmSettings):
    """Settings of `FlowDPPO`: the noise, and the threshold of the mask."""

    noise: Literal["flow", "dance", "cps"] = Field(default="flow", description="noise of the trained steps")
    eta: float | None = Field(default=None, ge=0, description="amount of noise; null takes the default of the noise")
    threshold: float = Field(default=1e-5, ge=0, description="divergence from which a row drops out, per dimension")


class FlowDPPO(Algorithm[FlowDPPOSettings]):
    """Policy gradient over the sampler's noisy steps, masked by the exact KL to the policy that sampled."""

    Settings = FlowDPPOSettings
    off_policy = ("threshold",)
    skips_dead = True

    @property
    def process(self) -> SamplerSteps:
        """Noisy steps of the sampler inside the window."""
        return SamplerSteps(noise_scale(self.settings.noise, eta=self.settings.eta))

    @property
    def needs(self) -> frozenset[str]:
        """Log density and mean when sampled."""
        return frozenset({OLD_LOG_PROB, mean_under(OLD)})

    def loss(self, replayed: Replayed) -> Loss:
        """Compute `flexgym.flow.masked_surrogate`, ``[L, P, G]``."""
        log_ratio, divergence = replayed.log_ratio, replayed.distance(OLD, "gaussian")
        surrogate = masked_surrogate(log_ratio, replayed.advantage, divergence, threshold=self.settings.threshold)
        return Loss(surrogate.loss, surrogate_metrics(surrogate, log_ratio))


main = Agent("flow_dppo", algorithm="flow_dppo", summary=__doc__ or "")
