"""DiffusionNFT (arXiv 2509.16117): matching toward good samples and away from bad ones, without a likelihood ratio.

``python -m agents.diffusion_nft`` trains the embedded text-to-image model with the rules of the small world.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from flexgym.agents.base import Agent
from flexgym.algorithm.base import CURRENT, CopySchedule, Loss
from flexgym.algorithm.finished import FinishedAlgorithm, FinishedSettings
from flexgym.algorithm.replay import OLD, Replayed, mean_under
from flexgym.algorithm.settings import PenaltySettings
from flexgym.core.metrics import Mean
from flexgym.flow import OptimalityMode, nft_loss

_SCHEDULES = {
    "capped": CopySchedule(slope=0.001, highest=0.5),
    "delayed": CopySchedule(slope=0.0075, delay=75, highest=0.999),
}
"""Schedules of the policy that samples, types 1 and 2 of the authors' code."""


class NFTSettings(FinishedSettings):
    """Settings of `DiffusionNFT`; the defaults are those of the authors' code."""

    beta: float = Field(default=1.0, gt=0, description="how far the two branches lie from the policy that sampled")
    advantage_clip: float = Field(default=5.0, gt=0, description="advantage that counts as certainly good")
    mode: OptimalityMode = Field(default="all", description="which advantages count")
    old: Literal["current", "capped", "delayed"] = Field(
        default="current",
        description="policy that samples: the current one, or a copy that lags behind it by a rising decay, to at most"
        " 0.5 (capped) or, after 75 optimizer steps, 0.999 (delayed)",
    )
    penalties: dict[str, PenaltySettings] = Field(
        default={"reference": PenaltySettings(coeff=1e-4, form="velocity")},
        description="penalties by the weights that the policy is held to; given ones replace these",
    )


class DiffusionNFT(FinishedAlgorithm[NFTSettings]):
    """Negative-aware fine-tuning on the forward process."""

    Settings = NFTSettings
    needs = frozenset({mean_under(OLD)})
    off_policy = ("beta",)  # on policy the gradient is the same for any

    @property
    def acts(self) -> str:
        """The current weights, or the copy that lags behind them."""
        return CURRENT if self.settings.old == "current" else OLD

    @property
    def copies(self) -> Mapping[str, CopySchedule]:
        """The copy that lags behind, where it samples."""
        return {} if self.settings.old == "current" else {OLD: _SCHEDULES[self.settings.old]}

    def loss(self, replayed: Replayed) -> Loss:
        """Compute `flexgym.flow.nft_loss`, ``[L, P, G]``."""
        chosen, mean, old = self.settings, replayed.mean, replayed.means[OLD]
        options = {"beta": chosen.beta, "clip": chosen.advantage_clip}
        loss = nft_loss(mean, old, replayed.target, advantage=replayed.advantage, mode=chosen.mode, **options)
        return Loss(loss, {"loss/policy": Mean(loss)})


main = Agent("diffusion_nft", algorithm="diffusion_nft", summary=__doc__ or "")
