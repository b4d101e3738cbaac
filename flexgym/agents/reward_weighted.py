"""Reward-weighted regression (Peters and Schaal, 2007; arXiv 1910.00177): flow matching weighted by the reward.

``python -m agents.reward_weighted --config FILE`` trains a recipe with ``algorithm.name: reward_weighted``: on the
policy's own samples and a reward, or on a scored data set in its section ``data``.
"""

from __future__ import annotations

from pydantic import Field

from flexgym.agents.base import Agent
from flexgym.algorithm.base import Loss
from flexgym.algorithm.finished import FinishedAlgorithm, FinishedSettings
from flexgym.algorithm.replay import Replayed
from flexgym.algorithm.settings import LevelSettings
from flexgym.core.metrics import Max, Mean
from flexgym.flow import RewardWeight, matching_error, reward_weights, velocity_residual


class RewardWeightedSettings(FinishedSettings):
    """Settings of `RewardWeighted`; ``training.advantage`` says what of the scores is an advantage."""

    form: RewardWeight = Field(
        default="exponential", description="weight: exp(advantage / temperature), or the advantage where positive"
    )
    temperature: float = Field(default=1.0, gt=0, description="advantage that multiplies a weight by e")
    max_weight: float = Field(default=20.0, gt=0, description="largest weight")
    levels: LevelSettings = LevelSettings(source="logit_normal", count=1, low=1e-3)


class RewardWeighted(FinishedAlgorithm[RewardWeightedSettings]):
    """Flow matching on finished samples, weighted by their advantage."""

    Settings = RewardWeightedSettings

    def loss(self, replayed: Replayed) -> Loss:
        """Compute ``w mean((v - (noise - x0))^2)`` with w of `flexgym.flow.reward_weights`, ``[L, P, G]``."""
        chosen = self.settings
        weight = reward_weights(
            replayed.advantage, form=chosen.form, temperature=chosen.temperature, max_weight=chosen.max_weight
        )
        error = matching_error(velocity_residual(replayed.mean, replayed.target, replayed.sigma), lead=3)
        metrics = {
            "loss/matching": Mean(error, label="loss", format=".4f"),
            "policy/weight_mean": Mean(weight),
            "policy/weight_max": Max(weight, label="max weight", format=".2f"),
        }
        return Loss(weight * error, metrics)


main = Agent("reward_weighted", algorithm="reward_weighted", summary=__doc__ or "")
