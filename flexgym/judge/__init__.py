"""Pairwise judging: assessments of sample pairs, parsers for judge replies, and tournaments that score groups."""

from __future__ import annotations

from flexgym.judge.aggregation import pair_shares, pair_wins, win_rates
from flexgym.judge.agreement import agreement_summary
from flexgym.judge.assessment import Assessment, Category, Dimension
from flexgym.judge.parser import parse_assessment
from flexgym.judge.protocol import Judge, JudgeFailure, Outcome, Pair
from flexgym.judge.schedule import all_pairs
from flexgym.judge.tournament import Tournament, judge_groups, make_tournament, tournament_scores
from flexgym.judge.verdict import Verdict, VerdictDimension
from flexgym.judge.verdict_parser import parse_verdict

__all__ = [
    "Assessment",
    "Category",
    "Dimension",
    "Judge",
    "JudgeFailure",
    "Outcome",
    "Pair",
    "Tournament",
    "Verdict",
    "VerdictDimension",
    "agreement_summary",
    "all_pairs",
    "judge_groups",
    "make_tournament",
    "pair_shares",
    "pair_wins",
    "parse_assessment",
    "parse_verdict",
    "tournament_scores",
    "win_rates",
]
