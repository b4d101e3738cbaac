"""Reward by the rule-based judge of the small world."""

from __future__ import annotations

from typing import Any

from flexgym.shapes.oracle import OracleJudge
from rewards.base import JudgeReward, register


@register("shapes_oracle")
class ShapesOracle(JudgeReward):
    """Win rates by a rule-based judge of the small world, an offline stand-in for a vision-language judge.

    Args:
        **tournament: settings of the `flexgym.judge.Tournament`, such as ``alpha`` or ``schedule="regular(6)"``.
    """

    def __init__(self, **tournament: Any) -> None:
        super().__init__(OracleJudge(), tournament)
