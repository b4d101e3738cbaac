from __future__ import annotations

import math

import numpy as np
import pytest

from flexgym.core.errors import ConfigError
from flexgym.flow import GateSchedule, diversity, diversity_advantages, doubtful, overrating
from tests.flow.vectors import close


def test_distance_from_the_most_similar_sample():
    # directions at 0, 60 and 180 degrees, of any length
    features = [[1.0, 0.0], [1.0, math.sqrt(3.0)], [-5.0, 0.0]]
    close(diversity(features), [0.5, 0.5, 1.5])
    close(diversity([features, features]), [[0.5, 0.5, 1.5]] * 2)
    close(diversity([[1.0, 0.0], [2.0, 0.0]]), [0.0, 0.0])


def test_diversity_multiplies_good_samples_only():
    # mean reward .4, mean distance .8
    rewards, distances = [[0.1, 0.5, 0.6]], [[1.2, 0.4, 0.8]]
    close(diversity_advantages(rewards, distances), [[-0.3, 0.1 * 0.5, 0.2]])


def test_unscored_and_identical_samples():
    close(diversity_advantages([[0.0, math.nan, 1.0]], [[0.0, 0.0, 0.0]]), [[-0.5, 0.0, 0.5]])
    close(diversity_advantages([[0.3, 0.3]], [[0.1, 0.5]]), [[0.0, 0.0]])


def test_what_the_main_reward_ranks_higher_is_overrated():
    main, first, second = [0.9, 0.5, 0.1], [1.0, 2.0, 3.0], [5.0, 7.0, 7.0]
    close(overrating(main, [first]), [1.0, 0.0, -1.0])
    close(overrating(main, [first, second]), [1.0, 0.5 - (0.5 + 0.75) / 2, -(1.0 + 0.75) / 2])
    close(overrating(main, [main, main]), [0.0, 0.0, 0.0])


def test_the_gate_takes_the_top_of_what_is_not_negative():
    u = np.array([-1.0, -0.5, 0.0, 0.1, 0.2, 0.3, 0.4])
    assert doubtful(u, 0.2).tolist() == [False] * 6 + [True]
    assert doubtful(u, 0.5).tolist() == [False] * 5 + [True, True]
    assert doubtful(u, 1.0).tolist() == [False] * 3 + [True] * 4
    assert not doubtful([-0.3, -0.2], 0.5).any()


def test_the_share_follows_records():
    start = GateSchedule().after([0.2, 0.4, -0.9])
    assert (start.share, start.history) == (0.1, (pytest.approx(0.3),))
    risen = start.after([0.5])
    assert risen.share == pytest.approx(0.11)
    assert risen.after([0.4]).share == risen.share  # no record
    fallen = risen.after([0.1])
    assert fallen.share == pytest.approx(0.11 * 0.9)
    assert fallen.after([-1.0]) == fallen


def test_the_share_has_limits_and_the_history_a_length():
    up, down = GateSchedule(length=5), GateSchedule()
    for step in range(30):
        up, down = up.after([0.01 * (step + 1)]), down.after([1.0 - 0.01 * step])
    assert (up.share, down.share) == (0.2, 0.02)
    assert len(up.history) == 5
    assert len(down.history) == 20


def test_refusals():
    with pytest.raises(ConfigError, match="at least two samples"):
        diversity([[1.0, 2.0]])
    with pytest.raises(ConfigError, match="not all 0"):
        diversity([[0.0, 0.0], [1.0, 0.0]])
    with pytest.raises(ConfigError, match=r"must be \[P, G\]"):
        diversity_advantages([[1.0, 2.0]], [1.0, 2.0])
    with pytest.raises(ConfigError, match="main reward"):
        overrating([1.0, 2.0], [])
    with pytest.raises(ConfigError, match="finite"):
        overrating([1.0, math.nan], [[1.0, 2.0]])
    with pytest.raises(ConfigError, match="share"):
        doubtful([0.1], 0.0)
    with pytest.raises(ConfigError, match="low <= share"):
        GateSchedule(share=0.5)
