"""Best-of-N distillation: flow matching on the best of N samples of each prompt, so that one sample becomes as good.

``python -m agents.best_of_n --config FILE`` trains a recipe with ``algorithm.name: best_of_n``: online on the policy's
own samples and a reward, or on a scored data set in its section ``data``, whose ``select: best`` leaves the others
unread.
"""

from __future__ import annotations

from pydantic import Field

from flexgym.agents.base import Agent
from flexgym.algorithm.base import Loss
from flexgym.algorithm.finished import FinishedAlgorithm, FinishedSettings
from flexgym.algorithm.replay import Replayed
from flexgym.algorithm.settings import LevelSettings
from flexgym.core.metrics import Mean, Share
from flexgym.flow import best_weights, matching_error, velocity_residual


class BestOfNSettings(FinishedSettings):
    """Settings of `BestOfN`: how many samples of a group are trained."""

    best: int = Field(
        default=1, ge=1, description="samples of each group that are trained, those of the highest reward"
    )
    levels: LevelSettings = LevelSettings(source="logit_normal", count=1, low=1e-3)


class BestOfN(FinishedAlgorithm[BestOfNSettings]):
    """Flow matching on the best samples of each group."""

    Settings = BestOfNSettings
    couples = True

    def loss(self, replayed: Replayed) -> Loss:
        """Compute the mean of ``mean((v - (noise - x0))^2)`` over the best samples, spread over ``[L, P, G]``."""
        weight = best_weights(replayed.advantage, best=self.settings.best)
        error = matching_error(velocity_residual(replayed.mean, replayed.target, replayed.sigma), lead=3)
        share = weight / weight.mean().clamp(min=1e-6)  # so that the mean over samples is that over the best
        metrics = {
            "loss/matching": Mean((share * error).mean(), label="loss", format=".4f"),
            "policy/trained_share": Share(weight, label="trained samples"),
        }
        return Loss(share * error, metrics)


main = Agent("best_of_n", algorithm="best_of_n", summary=__doc__ or "")
