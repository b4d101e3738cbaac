from __future__ import annotations

import math
from typing import get_args

import pytest

from flexgym.judge import Assessment, Category, Dimension, JudgeFailure, agreement_summary
from flexgym.judge.protocol import FailureKind


def category(name, winner, score):
    dims = (Dimension(name="d", score_1=score, score_2=10 - score),)
    return Category(name=name, dims=dims, cat_winner=f"Image {winner}")


def assessment(overall, *winners_and_scores, left_out=0):
    names = ("A. Semantic", "B. Quality", "C. Aesthetics", "D. Counting")
    categories = tuple(category(name, *pair) for name, pair in zip(names, winners_and_scores, strict=False))
    return Assessment(categories=categories, winner=f"Image {overall}", left_out=left_out)


OUTCOMES = [
    # Consistent with its scores three times; two of three categories go to the winner.
    assessment(1, (1, 8), (1, 6), (2, 3)),
    # The first category contradicts its scores, the second is even; the majority contradicts the winner.
    assessment(1, (2, 9), (2, 5), (1, 6), left_out=1),
    # All consistent; the categories are split, so there is no majority.
    assessment(2, (1, 7), (1, 7), (2, 3), (2, 3)),
    JudgeFailure("truncated", "cut"),
    JudgeFailure("truncated", "cut"),
    JudgeFailure("invalid", "winner: Field required"),
]


def test_summary_of_six_outcomes():
    summary = agreement_summary(OUTCOMES)
    assert summary["consistent_categories"] == pytest.approx(9 / 10)
    assert summary["even_categories"] == pytest.approx(1 / 10)
    assert summary["majority_agrees"] == pytest.approx(1 / 2)
    assert summary["first_position_rate"] == pytest.approx(2 / 3)
    assert summary["personalised_categories"] == pytest.approx(1 / 3)
    assert summary["left_out_categories"] == pytest.approx(1 / 3)
    assert summary["failure_share"] == pytest.approx(1 / 2)
    assert summary["failure_share/truncated"] == pytest.approx(1 / 3)
    assert summary["failure_share/invalid"] == pytest.approx(1 / 6)
    assert summary["failure_share/refused"] == 0.0


def test_every_kind_of_failure_has_a_share_and_they_add_up():
    summary = agreement_summary(OUTCOMES)
    parts = {key: value for key, value in summary.items() if key.startswith("failure_share/")}
    assert set(parts) == {f"failure_share/{kind}" for kind in get_args(FailureKind)}
    assert sum(parts.values()) == pytest.approx(summary["failure_share"])


def test_without_assessments_agreement_is_unknown():
    summary = agreement_summary([JudgeFailure("refused", "unknown prompt")])
    assert summary["failure_share"] == summary["failure_share/refused"] == 1.0
    unknown = {key for key, value in summary.items() if math.isnan(value)}
    assert unknown == {key for key in summary if not key.startswith("failure_share")}


def test_without_outcomes_all_is_unknown():
    summary = agreement_summary([])
    assert set(summary) == set(agreement_summary(OUTCOMES))
    assert all(math.isnan(value) for value in summary.values())
