"""DiffusionNFT (arXiv 2509.16117): matching toward good samples and away from bad ones, without a likelihood ratio.

``python -m agents.diffusion_nft`` trains the embedded text-to-image model with the rules of the small world.
"""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from agents.base import run_agent
from flexgym.algorithm.base import Algorithm, Loss
from flexgym.algorithm.process import ForwardProcess
from flexgym.algorithm.replay import Replayed
from flexgym.algorithm.settings import AlgorithmSettings, LevelSettings, PenaltySettings
from flexgym.core.metrics import Mean


class NFTSettings(AlgorithmSettings):
    """Settings of `DiffusionNFT`; the defaults are those of the authors' code."""

    beta: float = Field(default=1.0, gt=0, description="how far the two branches lie from the policy that sampled")
    levels: LevelSettings = LevelSettings()
    penalties: dict[str, PenaltySettings] = Field(
        default={"reference": PenaltySettings(coeff=1e-4, form="velocity")},
        description="penalties by the weights that the policy is held to; given ones replace these",
    )
    advantage_clip: float = Field(default=5.0, gt=0, description="advantage that counts as certainly good")


def nft_loss(mean: Tensor, old_mean: Tensor, clean: Tensor, *, advantage: Tensor, beta: float, clip: float) -> Tensor:
    """Compute the loss of arXiv 2509.16117 per row, ``clip * (r * l_plus + (1 - r) * l_minus) / beta``, ``[B]``.

    Args:
        mean: clean latents that the policy predicts, ``[B, ...]``.
        old_mean: clean latents that the policy that sampled predicted, ``[B, ...]``.
        clean: clean latents of the samples, ``[B, ...]``.
        advantage: of the samples, ``[B]``.
        beta: distance of the branches ``old + beta (mean - old)`` and ``old - beta (mean - old)``.
        clip: advantages within -clip and clip become probabilities r within 0 and 1.
    """
    good = advantage.clamp(-clip, clip) / clip / 2 + 0.5

    def branch(prediction: Tensor) -> Tensor:
        error = (prediction - clean).flatten(1)
        weight = error.detach().double().abs().mean(1).clamp(min=1e-5)
        return error.square().mean(1) / weight.to(error.dtype)

    positive, negative = (branch(old_mean + side * beta * (mean - old_mean)) for side in (1, -1))
    return clip * (good * positive + (1 - good) * negative) / beta


class DiffusionNFT(Algorithm[NFTSettings]):
    """Negative-aware fine-tuning on the forward process, with the weights of the rollout as the old policy (type 0)."""

    Settings = NFTSettings

    @property
    def process(self) -> ForwardProcess:
        """Fresh noise on finished samples."""
        return ForwardProcess(draw=self.settings.levels.draw)

    @property
    def needs(self) -> frozenset[str]:
        """The prediction when sampled."""
        return frozenset({"old_mean"})

    def loss(self, replayed: Replayed) -> Loss:
        """Compute `nft_loss`, ``[L, P, G]``."""
        loss = nft_loss(
            replayed.policy.mean,
            replayed.under("old").mean,
            replayed.target.flatten(0, 2),
            advantage=replayed.advantage.flatten(),
            beta=self.settings.beta,
            clip=self.settings.advantage_clip,
        )
        return Loss(loss.view(replayed.advantage.shape), {"loss/policy": Mean(loss)})


if __name__ == "__main__":
    run_agent("agents.diffusion_nft", algorithm="diffusion_nft", default_recipe="nft_shapes.yaml", summary=__doc__)
