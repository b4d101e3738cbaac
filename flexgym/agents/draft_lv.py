"""DRaFT-LV (arXiv 2309.17400): the gradient of the reward through the last step, averaged over re-noised copies.

``python -m agents.draft_lv --config FILE`` trains a recipe with ``algorithm.name: draft_lv``.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from flexgym.agents.base import Agent
from flexgym.algorithm.reward_steps import RewardGradientAlgorithm, RewardGradientSettings
from flexgym.flow import Replays, draft_lv_replays


class DRaFTLVSettings(RewardGradientSettings):
    """Settings of `DRaFTLV`; without copies it is DRaFT-1."""

    copies: int = Field(default=2, ge=0, description="copies of each sample, re-noised to the level of the last step")


class DRaFTLV(RewardGradientAlgorithm[DRaFTLVSettings]):
    """Direct reward fine-tuning of the last step, with low variance."""

    Settings = DRaFTLVSettings

    def draw(self, num_steps: int, rng: np.random.Generator) -> Replays:
        """Return the last step, once for the sample and once for each copy."""
        return draft_lv_replays(num_steps, copies=self.settings.copies)


main = Agent("draft_lv", algorithm="draft_lv", summary=__doc__ or "")
