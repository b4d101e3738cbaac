from __future__ import annotations

import math

import numpy as np
import pytest

from flexgym.core.errors import ConfigError
from flexgym.flow import Sifted, decided_pairs, extreme_pairs, score_pairs, sift, win_matrix
from tests.flow.vectors import VECTORS

NAN = math.nan


def test_the_win_matrix_counts_valid_comparisons_in_both_orders():
    # 0 beats 1 shown first and loses to it shown second; 2 ties with 0; one failure, one comparison with a reference
    pairs, wins = [[0, 1], [1, 0], [2, 0], [1, 2], [3, 2]], [1.0, 1.0, 0.5, NAN, 1.0]
    np.testing.assert_array_equal(win_matrix(pairs, wins, 3), [[NAN, 0.5, 0.5], [0.5, NAN, NAN], [0.5, NAN, NAN]])


def test_every_decided_pair_once():
    wins = [
        [[NAN, 1.0, 0.5], [0.0, NAN, NAN], [0.5, NAN, NAN]],  # 0 beats 1, ties with 2
        [[NAN, 0.5, 0.5], [0.5, NAN, 0.5], [0.5, 0.5, NAN]],  # a dead group
        [[NAN, 0.25, 0.0], [0.75, NAN, 1.0], [1.0, 0.0, NAN]],
    ]
    assert decided_pairs(wins).tolist() == [[0, 1], [7, 6], [7, 8], [8, 6]]
    assert decided_pairs(wins, margin=0.5).tolist() == [[0, 1], [7, 8], [8, 6]]
    assert decided_pairs(wins[0]).tolist() == [[0, 1]]
    assert decided_pairs(np.full((2, 3, 3), NAN)).shape == (0, 2)


def test_pairs_of_scores():
    scores = [[0.1, 0.5, 0.1], [NAN, 0.3, 0.4], [0.2, 0.2, 0.2]]
    assert score_pairs(scores).tolist() == [[1, 0], [1, 2], [5, 4]]
    assert score_pairs(scores, margin=0.2).tolist() == [[1, 0], [1, 2]]


def test_best_against_worst():
    entry = VECTORS["online_dpo_pairs"]
    rewards, groups = np.full((3, 3), NAN), entry["inputs"]["group"]
    for name, reward in zip(groups, entry["inputs"]["reward"], strict=True):
        row = "abc".index(name)
        rewards[row, int((~np.isnan(rewards[row])).sum())] = reward
    assert extreme_pairs(rewards).tolist() == entry["expected"]["pairs"]


def test_groups_without_differences_give_no_pair():
    assert extreme_pairs([[0.3, 0.3], [NAN, NAN], [NAN, 1.0], [0.1, 0.2]]).tolist() == [[7, 6]]
    assert extreme_pairs(np.zeros((0, 4))).shape == (0, 2)


def test_sifting_by_hand():
    # winners 0, 2, 4 score 7, 10, 9; losers 1, 3, 5 score 10, 4, 4: as text, 9 would be highest and 10 lowest
    pairs, scores = [(0, 1), (2, 3), (4, 5)], [7, 10, 10, 4, 9, 4]
    assert sift(pairs, scores) == Sifted((2, 3))
    assert sift(pairs, scores, min_margin=6) == Sifted((2, 3))
    assert sift(pairs, scores, min_margin=7) == Sifted(None, "margin")


def test_sifting_drops_what_is_not_decided():
    assert sift([], [5, 6]) == Sifted(None, "no decided pair")
    assert sift([(0, 1)], [None, 3]) == Sifted(None, "no score")
    assert sift([(0, 1)], [5, 5]) == Sifted(None, "margin")
    assert sift([(0, 1)], [4, 5]) == Sifted(None, "margin")
    assert sift([(0, 1), (3, 2)], [None, 5, 6, 9]) == Sifted((3, 1))


def test_the_winner_of_one_comparison_may_meet_the_loser_of_another():
    assert sift([(1, 0), (2, 3)], [5, 8, 6, 2]) == Sifted((1, 3))


def test_refusals():
    with pytest.raises(ConfigError, match=r"pairs \[M, 2\]"):
        win_matrix([[0, 1]], [1.0, 0.0], 2)
    with pytest.raises(ConfigError, match="win matrices"):
        decided_pairs(np.zeros((2, 3)))
    with pytest.raises(ConfigError, match="margin"):
        decided_pairs(np.zeros((3, 3)), margin=1.0)
    with pytest.raises(ConfigError, match="margin"):
        score_pairs(np.zeros((3, 3)), margin=-1.0)
    with pytest.raises(ConfigError, match=r"scores \[P, G\]"):
        extreme_pairs([0.1, 0.2])
    with pytest.raises(ConfigError, match="min_margin"):
        sift([(0, 1)], [1, 2], min_margin=0)
    with pytest.raises(ConfigError, match="candidates 0 to 1"):
        sift([(0, 2)], [1, 2])
