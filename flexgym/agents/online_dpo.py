"""Online DPO (Diffusion-DPO, arXiv 2311.12908, on flow matching): pairs of each group, ranked by its rewards.

``python -m agents.online_dpo --config FILE`` trains a recipe with ``algorithm.name: online_dpo``.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from flexgym.agents.base import Agent
from flexgym.algorithm.base import REFERENCE, Loss
from flexgym.algorithm.finished import FinishedAlgorithm, FinishedSettings
from flexgym.algorithm.replay import Replayed, mean_under
from flexgym.algorithm.settings import LevelSettings
from flexgym.core.metrics import Mean, Metric, Share
from flexgym.flow import extreme_pairs, flow_dpo_loss, matching_error, score_pairs, velocity_residual


class OnlineDPOSettings(FinishedSettings):
    """Settings of `OnlineDPO`: the preference, and which pairs of a group count."""

    beta: float = Field(default=2000.0, gt=0, description="strength of the preference, on the scale of the errors")
    pairs: Literal["extreme", "all"] = Field(
        default="extreme", description="best against worst of each group, or all samples whose rewards differ"
    )
    margin: float = Field(default=0.0, ge=0, description="difference of advantages that all pairs must exceed")
    levels: LevelSettings = LevelSettings(source="logit_normal", count=1, shared=True)


class OnlineDPO(FinishedAlgorithm[OnlineDPOSettings]):
    """Preference optimization on pairs of finished samples that share noise and level."""

    Settings = OnlineDPOSettings
    needs = frozenset({mean_under(REFERENCE)})
    skips_dead = True
    couples = True

    def loss(self, replayed: Replayed) -> Loss:
        """Compute `flexgym.flow.flow_dpo_loss` of each pair, which counts for its winner, ``[L, P, G]``."""
        error, before = (
            matching_error(velocity_residual(mean, replayed.target, replayed.sigma), lead=3).flatten()
            for mean in (replayed.mean, replayed.means[REFERENCE])
        )
        winner, loser = self._pairs(replayed.advantage.flatten(0, 1)).T
        known = {"chosen_reference": before[winner], "rejected_reference": before[loser]}
        found = flow_dpo_loss(error[winner], error[loser], beta=self.settings.beta, **known)
        share = error.numel() / max(len(winner), 1)  # so that the mean over samples is that over pairs
        loss = (error * 0.0).index_add(0, winner, found.loss * share)
        metrics: dict[str, Metric] = {
            "loss/policy": Mean(found.loss),
            "dpo/accuracy": Share(found.accurate.float(), label="pairs in order"),
            "dpo/chosen_change": Mean(found.chosen_change),
            "dpo/rejected_change": Mean(found.rejected_change),
        }
        return Loss(loss.view(replayed.advantage.shape), metrics)

    def _pairs(self, advantage: Tensor) -> Tensor:
        # A plan has no values: any order of a group has as many pairs.
        values = torch.arange(advantage.shape[-1]).expand(advantage.shape) if advantage.is_meta else advantage
        scores = values.cpu().numpy()
        chosen = self.settings
        found = extreme_pairs(scores) if chosen.pairs == "extreme" else score_pairs(scores, margin=chosen.margin)
        return torch.from_numpy(found).to(advantage.device)


main = Agent("online_dpo", algorithm="online_dpo", summary=__doc__ or "")
