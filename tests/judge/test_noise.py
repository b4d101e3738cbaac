from __future__ import annotations

import numpy as np
import pytest

from flexgym.core.errors import ConfigError
from flexgym.judge import JudgeFailure, Pair, all_pairs, pair_wins
from flexgym.judge.noise import NoisyJudge
from tests.judge.simulated import WorthJudge, group, simulated_groups, verdict


def pairs_of(groups):
    return [Pair(group, *pair) for group in groups for pair in all_pairs(len(group)).tolist()]


class Says:
    """Gives the same outcome about every pair."""

    def __init__(self, outcome):
        self.outcome = outcome

    def assess(self, pairs):
        return [self.outcome] * len(pairs)


@pytest.mark.slow
def test_accuracy_holds_on_average_for_the_winner_and_the_categories():
    pairs = pairs_of(simulated_groups(40, 12, seed=0)[0])
    true, noisy = (pair_wins(judge.assess(pairs)) for judge in (WorthJudge(), noisy_judge(rate=0.5)))
    right = (true == noisy).mean(axis=0)  # of 2640 verdicts: standard error 0.008
    np.testing.assert_allclose(right, 0.8, atol=0.025)
    assert noisy[:, 0].mean() == pytest.approx(0.5, abs=0.03)


def noisy_judge(*, rate, accuracy=0.8, seed=0):
    return NoisyJudge(WorthJudge(), accuracy=accuracy, first_position_rate=rate, seed=seed)


def test_narrow_verdicts_are_turned_more_often():
    pairs = pairs_of(simulated_groups(40, 12, seed=0)[0])
    worths = np.array([pair.prompt.metadata["worths"][[pair.first, pair.second]] for pair in pairs])
    gaps = np.abs(worths[:, 0] - worths[:, 1])
    right = pair_wins(WorthJudge().assess(pairs))[:, 0] == pair_wins(noisy_judge(rate=0.5).assess(pairs))[:, 0]
    assert right[gaps < 0.3].mean() < 0.65
    assert right[gaps > 2.0].mean() > 0.9


def test_of_equals_the_first_wins_as_often_as_set():
    equal = Says(verdict(1))  # all points are even
    pairs = pairs_of([group([1] * 80)])
    wins = pair_wins(NoisyJudge(equal, first_position_rate=0.69).assess(pairs))
    np.testing.assert_allclose(wins.mean(axis=0), 0.69, atol=0.03)  # of 3160: standard error 0.008
    assert (wins == wins[:, :1]).all()  # one draw for all verdicts about a pair


def test_scores_move_with_the_verdict():
    told = verdict(1, scores=(9, 9, 9))  # 8 points ahead in each category, so that sigmoid(8 scale) = 0.6
    outcomes = NoisyJudge(Says(told), accuracy=0.6, first_position_rate=0.5).assess(pairs_of([group([1] * 12)]))
    draws = np.random.default_rng(0).logistic(size=len(outcomes)) * 8 / np.log(0.6 / 0.4)
    for outcome, points in zip(outcomes, draws, strict=True):
        score = np.clip(9 + points / 2, 0, 10)
        for category in outcome.categories:
            dim = category.dims[0]
            assert (dim.score_1, dim.score_2) == (pytest.approx(score), pytest.approx(10 - score))
            assert category.side == outcome.side == int(score < 5)
    assert 0 < sum(outcome.side for outcome in outcomes) < len(outcomes)


def test_the_seed_decides():
    pairs = pairs_of(simulated_groups(2, 8, seed=0)[0])
    assert noisy_judge(rate=0.5, seed=1).assess(pairs) == noisy_judge(rate=0.5, seed=1).assess(pairs)
    assert noisy_judge(rate=0.5, seed=1).assess(pairs) != noisy_judge(rate=0.5, seed=2).assess(pairs)


def test_failures_stay_failures():
    failure = JudgeFailure("timed_out", "no reply within 60 s")
    assert NoisyJudge(Says(failure)).assess(pairs_of([group([1, 2, 3])])) == [failure] * 3


@pytest.mark.parametrize(
    "settings", [{"accuracy": 0.4}, {"accuracy": 1.0}, {"first_position_rate": 0.0}, {"first_position_rate": 1.0}]
)
def test_shares_are_checked(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        NoisyJudge(WorthJudge(), **settings)
