from __future__ import annotations

import numpy as np
import pytest

from flexgym.errors import ConfigError, RewardError
from flexgym.judge import (
    Assessment,
    Category,
    Dimension,
    JudgeFailure,
    Tournament,
    all_pairs,
    judge_groups,
    pair_wins,
    tournament_scores,
    win_rates,
)
from flexgym.types import Prompt, SampleGroup

FAILED = JudgeFailure("no_winner", "winner: Field required")
NAMES = ("A. Semantic", "B. Quality", "C. Aesthetics")


def verdict(overall, *anchors, extra=()):
    """An assessment with the given winners (1 or 2): overall, categories A, B, C, and personalised ones."""
    dims = (Dimension(name="d", score_1=5, score_2=5),)
    names = [*NAMES, *(f"D{i}" for i in range(len(extra)))]
    winners = [*(anchors or [overall] * 3), *extra]
    categories = [
        Category(name=name, dims=dims, cat_winner=f"Image {winner}")
        for name, winner in zip(names, winners, strict=True)
    ]
    return Assessment(categories=categories, winner=f"Image {overall}")


def group(values):
    samples = np.asarray(values, dtype=np.uint8).reshape(-1, 1, 1, 1) * np.ones((1, 1, 3), dtype=np.uint8)
    return SampleGroup(Prompt("brightest"), samples)


class BrightnessJudge:
    """Prefers the brighter sample; pairs that hold a sample of value 99 fail."""

    def __init__(self):
        self.calls = 0

    def assess(self, pairs):
        self.calls += 1
        return [self._one(*(sample.max() for sample in pair.samples)) for pair in pairs]

    @staticmethod
    def _one(first, second):
        return FAILED if 99 in (first, second) else verdict(1 if first > second else 2)


def test_pairs_of_four_by_hand():
    assert all_pairs(4).tolist() == [[0, 1], [1, 2], [2, 3], [3, 0], [0, 2], [3, 1]]


@pytest.mark.parametrize("size", range(2, 14))
def test_all_pairs_meet_once_with_balanced_sides(size):
    pairs = all_pairs(size)
    assert {frozenset(pair) for pair in pairs.tolist()} == {frozenset((i, j)) for i in range(size) for j in range(i)}
    assert len(pairs) == size * (size - 1) // 2
    first, second = (np.bincount(pairs[:, side], minlength=size) for side in (0, 1))
    assert np.abs(first - second).max() == (0 if size % 2 else 1)


def test_one_sample_cannot_be_compared():
    with pytest.raises(ConfigError, match="group_size >= 2, got 1"):
        all_pairs(1)


def test_pair_wins_reads_overall_and_anchors_only():
    wins = pair_wins([verdict(1, 2, 1, 1, extra=(2,)), FAILED, verdict(2, 2, 2, 1)])
    np.testing.assert_array_equal(wins, [[1, 0, 1, 1], [np.nan] * 4, [0, 0, 0, 1]])


def test_group_of_three_by_hand():
    pairs = np.array([[0, 1], [1, 2], [2, 0]])
    outcomes = [verdict(1, 1, 2, 1), verdict(1, 2, 2, 2), verdict(2, 1, 2, 2)]
    # overall: 0 beats 1, 1 beats 2, 0 beats 2.
    # A: 0 beats 1, 2 beats 1, 2 beats 0;   B: 1 beats 0, 2 beats 1, 0 beats 2;   C: 0 beats 1, 2 beats 1, 0 beats 2.
    scores = tournament_scores(pairs, outcomes, 3)
    np.testing.assert_allclose(scores.terms["overall"], [1, 0.5, 0])
    np.testing.assert_allclose(scores.terms["dim"], [(0.5 + 0.5 + 1) / 3, (0 + 0.5 + 0) / 3, (1 + 0.5 + 0.5) / 3])
    np.testing.assert_allclose(scores.rewards, [0.7 * 2 / 3 + 0.3, 0.7 / 6 + 0.15, 0.7 * 2 / 3], rtol=1e-6)
    assert scores.weights == {"dim": 0.7, "overall": pytest.approx(0.3)}
    assert scores.rewards.dtype == scores.terms["dim"].dtype == np.float32
    assert scores.failures == {}
    assert scores.assessments == tuple(outcomes)


def test_failures_leave_the_count_and_are_counted():
    pairs = all_pairs(4)
    outcomes = [verdict(1), FAILED, JudgeFailure("empty", ""), verdict(2), verdict(1), verdict(2)]
    # Valid: 0 beats 1, 0 beats 3, 0 beats 2, 1 beats 3.  Comparisons: three of 0, two of 1 and 3, one of 2.
    scores = tournament_scores(pairs, outcomes, 4, tournament=Tournament(min_comparisons=1))
    np.testing.assert_allclose(scores.rewards, [1, 0.5, 0, 0], rtol=1e-6)
    assert scores.failures == {"no_winner": 1, "empty": 1}


def test_too_few_valid_comparisons_leave_a_sample_unscored():
    outcomes = [verdict(1), FAILED, FAILED, verdict(2), verdict(1), verdict(2)]
    scores = tournament_scores(all_pairs(4), outcomes, 4)
    np.testing.assert_array_equal(np.isnan(scores.rewards), [False, False, True, False])
    assert np.isnan(scores.terms["dim"][2])
    assert np.isnan(scores.terms["overall"][2])
    assert scores.mean == pytest.approx(0.5)


def test_a_group_of_two_needs_its_only_comparison():
    scored = tournament_scores(all_pairs(2), [verdict(2)], 2)
    np.testing.assert_array_equal(scored.rewards, [0, 1])
    failed = tournament_scores(all_pairs(2), [FAILED], 2)
    assert np.isnan(failed.rewards).all()
    assert np.isnan(failed.mean)


def test_rewards_average_one_half_when_nothing_fails():
    rng = np.random.default_rng(0)
    outcomes = [verdict(*rng.integers(1, 3, size=4)) for _ in range(28)]
    assert tournament_scores(all_pairs(8), outcomes, 8).mean == pytest.approx(0.5)


@pytest.mark.parametrize(("alpha", "term"), [(1.0, "dim"), (0.0, "overall")])
def test_alpha_chooses_between_the_terms(alpha, term):
    scores = tournament_scores(all_pairs(2), [verdict(1, 2, 2, 1)], 2, tournament=Tournament(alpha=alpha))
    np.testing.assert_array_equal(scores.rewards, scores.terms[term])


def test_win_rates_take_shares_of_a_win():
    rates = win_rates(np.array([[0, 1], [0, 2]]), np.array([[0.5], [1.0]]), 3)
    np.testing.assert_allclose(rates, [[0.75], [0.5], [0.0]])


def test_judge_groups_asks_once_for_all_groups():
    judge = BrightnessJudge()
    first, second = judge_groups(judge, [group([30, 10, 20]), group([5, 99, 7, 6])])
    assert judge.calls == 1
    np.testing.assert_allclose(first.rewards, [1, 0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(second.rewards, [0, np.nan, 1, 0.5], rtol=1e-6)
    assert second.failures == {"no_winner": 3}


def test_judge_must_answer_once_per_pair():
    class Mute:
        def assess(self, pairs):
            return []

    with pytest.raises(RewardError, match="expected 3 outcomes, got 0"):
        judge_groups(Mute(), [group([1, 2, 3])])
    with pytest.raises(RewardError, match="one judgement per pair"):
        tournament_scores(all_pairs(3), [FAILED], 3)


@pytest.mark.parametrize("settings", [{"alpha": 1.2}, {"alpha": float("nan")}, {"min_comparisons": 0}])
def test_settings_are_checked_when_built(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Tournament(**settings)
