"""DiffusionNFT (arXiv 2509.16117): matching toward good samples and away from bad ones, without a likelihood ratio.

``python -m agents.diffusion_nft`` trains the embedded text-to-image model with the rules of the small world.
"""

from __future__ import annotations

from pydantic import Field

from agents.base import run_agent
from flexgym.algorithm.base import Algorithm, Loss
from flexgym.algorithm.process import ForwardProcess
from flexgym.algorithm.replay import Replayed
from flexgym.algorithm.settings import AlgorithmSettings
from flexgym.core.metrics import Mean, Metric
from flexgym.flow import nft_loss


class NFTSettings(AlgorithmSettings):
    """Settings of `DiffusionNFT`; the defaults are those of the authors' code."""

    beta: float = Field(default=1.0, gt=0, description="how far the two branches lie from the policy that sampled")
    kl_coeff: float = Field(default=1e-4, ge=0, description="weight of the squared velocity distance to the reference")
    advantage_clip: float = Field(default=5.0, gt=0, description="advantage that counts as certainly good")


class DiffusionNFT(Algorithm[NFTSettings]):
    """Negative-aware fine-tuning on the forward process, with the weights of the rollout as the old policy (type 0)."""

    Settings = NFTSettings
    process = ForwardProcess()

    @property
    def needs(self) -> frozenset[str]:
        """The prediction when sampled, and that of the reference policy."""
        return frozenset({"old_mean", "reference_mean"} if self.settings.kl_coeff else {"old_mean"})

    def loss(self, replayed: Replayed) -> Loss:
        """Compute `nft_loss` plus ``kl_coeff * mean((v - v_ref)^2)``, ``[P, G]``."""
        chosen, mean = self.settings, replayed.policy.mean
        clean, advantage = replayed.target.flatten(0, 1), replayed.advantage.flatten()
        loss = nft_loss(
            mean, replayed.old.mean, clean, advantage=advantage, beta=chosen.beta, clip=chosen.advantage_clip
        )
        metrics: dict[str, Metric] = {"loss/policy": Mean(loss)}
        if chosen.kl_coeff:
            distance = (mean - replayed.reference.mean).flatten(1).square().mean(1) / replayed.sigma.flatten().square()
            metrics["loss/kl"] = Mean(distance)
            loss = loss + chosen.kl_coeff * distance
        return Loss(loss.view(replayed.advantage.shape), metrics)


if __name__ == "__main__":
    run_agent("agents.diffusion_nft", algorithm="diffusion_nft", default_recipe="nft_shapes.yaml", summary=__doc__)
