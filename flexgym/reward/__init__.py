"""The reward contract: groups of samples in, scores of each group out.

Derive from `PointwiseReward` to score one sample at a time, from `JudgeReward` to judge pairs, or from `Reward`.
"""

from __future__ import annotations

from flexgym.reward.base import JudgeReward, PointwiseReward, Reward
from flexgym.reward.building import build, check
from flexgym.reward.gradient import no_gradient_scores
from flexgym.reward.guard import FailedSample, FailedSamples
from flexgym.reward.known import KnownPair
from flexgym.reward.names import register
from flexgym.reward.wrappers import RewardWrapper, VectorRewardWrapper

__all__ = [
    "FailedSample",
    "FailedSamples",
    "JudgeReward",
    "KnownPair",
    "PointwiseReward",
    "Reward",
    "RewardWrapper",
    "VectorRewardWrapper",
    "build",
    "check",
    "no_gradient_scores",
    "register",
]
