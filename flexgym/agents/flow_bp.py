"""FlowBP-Sparse (arXiv 2606.11075): the gradient of the reward through some steps of a finished trajectory.

``python -m agents.flow_bp --config FILE`` trains a recipe with ``algorithm.name: flow_bp``.
"""

from __future__ import annotations

import numpy as np
from pydantic import Field

from flexgym.agents.base import Agent
from flexgym.algorithm.reward_steps import RewardGradientAlgorithm, RewardGradientSettings
from flexgym.flow import Replays, draw_sparse_steps, sparse_replays


class FlowBPSettings(RewardGradientSettings):
    """Settings of `FlowBP`: how the trained steps are drawn and weighted."""

    active: int = Field(default=4, ge=1, description="steps that an iteration trains")
    bias: float = Field(default=1.0, ge=0, description="power by which late steps are preferred; 0 for none")
    rescale: float = Field(default=0.5, ge=0, description="share of the other steps to make up for; 0 for none")


class FlowBP(RewardGradientAlgorithm[FlowBPSettings]):
    """Flow backpropagation, sparse: drawn steps are trained with detached inputs, and the reward sees the sample."""

    Settings = FlowBPSettings

    def draw(self, num_steps: int, rng: np.random.Generator) -> Replays:
        """Draw the active steps."""
        chosen = self.settings
        active = draw_sparse_steps(num_steps, rng, count=chosen.active, bias=chosen.bias)
        return sparse_replays(num_steps, active, rescale=chosen.rescale)


main = Agent("flow_bp", algorithm="flow_bp", summary=__doc__ or "")
