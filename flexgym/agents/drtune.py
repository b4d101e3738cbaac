"""DRTune (arXiv 2405.00760): the gradient of the reward through a few early and late steps with detached inputs.

``python -m agents.drtune --config FILE`` trains a recipe with ``algorithm.name: drtune``.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from flexgym.agents.base import Agent
from flexgym.algorithm.reward_steps import RewardGradientAlgorithm, RewardGradientSettings
from flexgym.flow import Replays, draw_drtune_steps, drtune_replays


class DRTuneSettings(RewardGradientSettings):
    """Settings of `DRTune`: which steps are trained, and where the reward looks."""

    trained: int = Field(default=3, ge=1, description="equally spaced steps that an iteration trains")
    stop_share: float = Field(
        default=0.4, ge=0, le=1, description="share of the steps, from the end, at whose prediction the reward looks"
    )


class DRTune(RewardGradientAlgorithm[DRTuneSettings]):
    """Deep reward tuning: equally spaced steps are trained, and the reward sees what a late step predicts."""

    Settings = DRTuneSettings

    def draw(self, num_steps: int, rng: np.random.Generator) -> Replays:
        """Draw the stop, and the first of the trained steps up to it."""
        chosen = self.settings
        steps, stop = draw_drtune_steps(num_steps, rng, trained=chosen.trained, stop_share=chosen.stop_share)
        return drtune_replays(steps, stop=stop)


main = Agent("drtune", algorithm="drtune", summary=__doc__ or "")
