"""Rewards of the studies: the embedded judge with other winners, or with errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from flexgym.judge import Assessment, Outcome, Pair
from flexgym.judge.noise import NoisyJudge
from flexgym.judge.protocol import Judge
from flexgym.rewards.unified_reward_flex import UnifiedRewardFlex


class SummedScores(UnifiedRewardFlex):
    """UnifiedReward-Flex whose overall winner is the sample with more points, with or without personalized categories.

    Args:
        personalized: whether the points of the personalized categories count.
        **settings: see `UnifiedRewardFlex`.
    """

    def __init__(self, *, personalized: bool = True, **settings: Any) -> None:
        super().__init__(**settings)
        self.judge = WinnerByPoints(self.judge, personalized=personalized)


class ErringJudge(UnifiedRewardFlex):
    """UnifiedReward-Flex with errors, more of them between similar samples.

    Args:
        accuracy: probability with which it agrees with itself without errors.
        noise_seed: of the errors.
        **settings: see `UnifiedRewardFlex`.
    """

    def __init__(self, *, accuracy: float = 0.75, noise_seed: int = 0, **settings: Any) -> None:
        super().__init__(**settings)
        self.judge = NoisyJudge(self.judge, accuracy=accuracy, first_position_rate=0.5, seed=noise_seed)


class WinnerByPoints:
    """A judge whose overall winner is the sample with more points; with equal points, the stated one.

    Args:
        judge: that is asked.
        personalized: whether personalized categories count; without them they are left out.
    """

    def __init__(self, judge: Judge, *, personalized: bool) -> None:
        self._judge, self._personalized = judge, personalized

    def assess(self, pairs: Sequence[Pair]) -> list[Outcome]:
        """Judge every pair; failures stay as they are."""
        return [
            self._decided(outcome) if isinstance(outcome, Assessment) else outcome
            for outcome in self._judge.assess(pairs)
        ]

    def _decided(self, told: Assessment) -> Assessment:
        categories = told.categories if self._personalized else told.anchors
        lead = sum(category.score_margin for category in categories)
        side = told.side if lead == 0 else int(lead < 0)
        return told.model_copy(update={"categories": categories, "winner": f"{told.winner[:-1]}{side + 1}"})
