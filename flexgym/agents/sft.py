"""Supervised fine-tuning of a generator: flow matching on captioned samples of a data set.

``python -m agents.sft --config FILE`` trains a recipe with ``algorithm.name: sft`` on the samples of its section
``data``.
"""

from __future__ import annotations

from pydantic import Field

from flexgym.agents.base import Agent
from flexgym.algorithm.base import Loss
from flexgym.algorithm.finished import FinishedAlgorithm, FinishedSettings
from flexgym.algorithm.replay import Replayed
from flexgym.algorithm.settings import LevelSettings
from flexgym.core.metrics import Mean
from flexgym.flow import MatchingWeight, matching_log_prob, velocity_residual


class SFTSettings(FinishedSettings):
    """Settings of `SFT`: which noise levels are trained, and how much each counts."""

    weight: MatchingWeight = Field(
        default="uniform", description="how the loss depends on the error of the velocity and the noise level"
    )
    levels: LevelSettings = LevelSettings(source="logit_normal", count=1, low=1e-3)


class SFT(FinishedAlgorithm[SFTSettings]):
    """Flow matching (arXiv 2210.02747, 2403.03206) on the samples of a data set, all of which count the same."""

    Settings = SFTSettings
    data_only = True

    def loss(self, replayed: Replayed) -> Loss:
        """Compute ``mean((v - (noise - x0))^2)`` with a weight of `flexgym.flow.matching_log_prob`, ``[L, P, G]``."""
        residual = velocity_residual(replayed.mean, replayed.target, replayed.sigma)
        loss = -matching_log_prob(residual, replayed.sigma, weight=self.settings.weight)
        return Loss(loss, {"loss/matching": Mean(loss, label="loss", format=".4f")})


main = Agent("sft", algorithm="sft", summary=__doc__ or "")
