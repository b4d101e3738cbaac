from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.judge import JudgeFailure, all_pairs, pair_shares, pair_wins, win_rates
from flexgym.judge.aggregation import BradleyTerry, Margin, WinRate, bradley_terry, make_aggregation
from tests.judge.simulated import verdict

FAILED = JudgeFailure("truncated", "no closing brace")
LARGE = 1e-7


def test_pair_wins_reads_overall_and_anchors_only():
    wins = pair_wins([verdict(1, 2, 1, 1, extra=(2,)), FAILED, verdict(2, 2, 2, 1)])
    np.testing.assert_array_equal(wins, [[1, 0, 1, 1], [np.nan] * 4, [0, 0, 0, 1]])


def test_pair_shares_by_hand():
    # points of the first by category: 8, 6, 5 and 1 in a personalized one; their mean is 5
    shares = pair_shares([verdict(2, extra=(2,), scores=(8, 6, 5, 1)), FAILED])
    np.testing.assert_allclose(shares, [[0.5, 0.8, 0.6, 0.5], [np.nan] * 4])


def test_win_rates_take_shares_of_a_win():
    rates = win_rates(np.array([[0, 1], [0, 2]]), np.array([[0.5], [1.0]]), 3)
    np.testing.assert_allclose(rates, [[0.75], [0.5], [0.0]])


def test_a_sample_without_valid_comparison_has_no_rate():
    pairs = np.array([[0, 1], [1, 2]])
    for aggregation in (WinRate(), BradleyTerry()):
        rates = aggregation.rates(pairs, np.array([[1.0], [np.nan]]), 3)
        np.testing.assert_array_equal(np.isnan(rates[:, 0]), [False, False, True])
        assert rates[0, 0] > 0.5 > rates[1, 0]


def test_margins_tell_a_clear_win_from_a_narrow_one():
    pairs = np.array([[0, 1], [1, 2]])
    outcomes = [verdict(1, scores=(10, 10, 10)), verdict(1, scores=(6, 6, 6))]
    rates = Margin().rates(pairs, Margin().verdicts(outcomes), 3)
    np.testing.assert_allclose(rates, np.array([[1.0], [0.3], [0.4]]) * np.ones(4))


def test_strengths_of_two_in_closed_form():
    # with strengths 1 and -1 the gradient of the first is (1 - sigmoid(2)) - ridge, so that this ridge makes it 0
    ridge = 1.0 - expit(2.0)
    strengths, preference = bradley_terry(np.array([[0, 1]]), np.array([1.0]), 2, ridge=ridge)
    np.testing.assert_allclose(strengths, [1.0, -1.0], rtol=1e-9)
    assert preference == 0.0
    rates = BradleyTerry(ridge=ridge).rates(np.array([[0, 1]]), np.array([[1.0]]), 2)
    np.testing.assert_allclose(rates[:, 0], [expit(2.0), expit(-2.0)])


def test_preference_for_a_side_in_closed_form():
    # the first always wins in both orders: nobody is stronger, and 6 (1 - sigmoid(1)) = ridge * 1
    pairs = np.concatenate([all_pairs(3), all_pairs(3)[:, ::-1]])
    ridge = 6.0 * (1.0 - expit(1.0))
    strengths, preference = bradley_terry(pairs, np.ones(6), 3, ridge=ridge, order=True)
    np.testing.assert_allclose(strengths, 0.0, atol=1e-12)
    assert preference == pytest.approx(1.0)


@pytest.mark.parametrize("preference", [0.0, 0.8])
def test_exact_chances_give_back_the_strengths(preference):
    truth = np.array([1.5, 0.25, -0.5, -1.25])
    pairs = all_pairs(4)
    chances = expit(truth[pairs[:, 0]] - truth[pairs[:, 1]] + preference)
    strengths, found = bradley_terry(pairs, chances, 4, ridge=LARGE, order=True)
    np.testing.assert_allclose(strengths, truth, atol=1e-5)
    assert found == pytest.approx(preference, abs=1e-5)


def test_one_who_always_wins_stays_finite():
    strengths, _ = bradley_terry(np.array([[0, 1]] * 200), np.ones(200), 2, ridge=1e-4)
    assert 3.0 < strengths[0] < 20.0
    # the solution: 200 (1 - sigmoid(2 s)) = ridge * s
    assert 200.0 * expit(-2.0 * strengths[0]) == pytest.approx(1e-4 * strengths[0])


def test_the_model_knows_whom_a_sample_has_met():
    # 1 and 2 have both won one of three, but 1 met the strong 0 twice where 2 met the weak 4
    pairs = np.array([[0, 3], [0, 4], [0, 1], [1, 3], [2, 4], [0, 2], [3, 4], [2, 3], [1, 0]])
    wins = np.array([[1.0], [1.0], [0.0], [0.0], [1.0], [1.0], [1.0], [0.0], [0.0]])
    rates, model = WinRate().rates(pairs, wins, 5)[:, 0], BradleyTerry().rates(pairs, wins, 5)[:, 0]
    assert rates[1] == rates[2] == pytest.approx(1 / 3)
    assert model[1] > model[2] + 0.05
    assert model.mean() == pytest.approx(0.5)


def test_aggregations_by_name():
    assert make_aggregation("win_rate") == WinRate()
    assert make_aggregation("margin") == Margin()
    assert make_aggregation({"name": "bradley_terry", "order": True}) == BradleyTerry(order=True)
    with pytest.raises(UnknownNameError, match="Did you mean 'bradley_terry'"):
        make_aggregation("bradley_tery")
    with pytest.raises(ConfigError, match="ridge of bradley_terry must be positive, got 0"):
        make_aggregation({"name": "bradley_terry", "ridge": 0})
