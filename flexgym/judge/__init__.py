"""The judge: what it writes about a pair, how that text is read, and how verdicts become the rewards of a group."""

from __future__ import annotations

from flexgym.judge.assessment import Assessment, Category, Dimension
from flexgym.judge.parser import parse_assessment
from flexgym.judge.protocol import Judge, JudgeFailure, Outcome, Pair
from flexgym.judge.tournament import Tournament, all_pairs, judge_groups, pair_wins, tournament_scores, win_rates

__all__ = [
    "Assessment",
    "Category",
    "Dimension",
    "Judge",
    "JudgeFailure",
    "Outcome",
    "Pair",
    "Tournament",
    "all_pairs",
    "judge_groups",
    "pair_wins",
    "parse_assessment",
    "tournament_scores",
    "win_rates",
]
