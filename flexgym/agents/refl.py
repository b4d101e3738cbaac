"""ReFL (arXiv 2304.05977): the gradient of the reward of the sample that one late step predicts, through that step.

``python -m agents.refl --config FILE`` trains a recipe with ``algorithm.name: refl``.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from flexgym.agents.base import Agent
from flexgym.algorithm.reward_steps import RewardGradientAlgorithm, RewardGradientSettings
from flexgym.flow import Replays, draw_refl_step, refl_replays


class ReFLSettings(RewardGradientSettings):
    """Settings of `ReFL`: which steps may be drawn."""

    last: int = Field(default=11, ge=1, description="number of last steps of which an iteration trains one")


class ReFL(RewardGradientAlgorithm[ReFLSettings]):
    """Reward feedback learning: one step of an iteration is trained, and the reward sees what it predicts."""

    Settings = ReFLSettings

    def draw(self, num_steps: int, rng: np.random.Generator) -> Replays:
        """Draw one of the last steps."""
        return refl_replays(draw_refl_step(num_steps, rng, last=self.settings.last))


main = Agent("refl", algorithm="refl", summary=__doc__ or "")
