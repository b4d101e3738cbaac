"""Reward by the rule-based judge of the small world."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

from flexgym.judge.tournament import TournamentSettings, make_tournament
from flexgym.reward import JudgeReward
from flexgym.shapes.oracle import OracleJudge


class ShapesOracle(JudgeReward):
    """Win rates by the rule-based judge of the small world, an offline substitute for a vision-language judge.

    Args:
        **tournament: settings of `flexgym.judge.Tournament`, such as ``alpha`` or ``schedule="regular(6)"``.
    """

    own_process = True

    def __init__(self, **tournament: Unpack[TournamentSettings]) -> None:
        super().__init__(OracleJudge(), tournament)

    @classmethod
    def check_settings(cls, settings: Mapping[str, Any]) -> None:
        """Raise ConfigError for settings that are invalid for the tournament."""
        make_tournament(settings)
