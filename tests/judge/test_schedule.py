from __future__ import annotations

import numpy as np
import pytest

from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.judge.schedule import All, AllUnbalanced, Anchor, Regular, Swiss, all_pairs, make_schedule, reference_pairs

NOTHING = {"played": np.empty((0, 2), dtype=np.intp), "wins": np.empty(0)}


def draw(schedule, size, seed=0):
    return schedule.draw(size, np.random.default_rng(seed), **NOTHING)


def counts(pairs, size):
    """Return how often each sample is in first and in second position."""
    return tuple(np.bincount(pairs[:, side], minlength=size) for side in (0, 1))


def sets(pairs):
    return {frozenset(pair) for pair in pairs.tolist()}


def play(schedule, worths, seed=0):
    """All rounds in a row; the worthier sample always wins."""
    rng, worths = np.random.default_rng(seed), np.asarray(worths)
    played, wins, rounds = NOTHING["played"], NOTHING["wins"], []
    for _ in range(schedule.num_rounds):
        drawn = schedule.draw(len(worths), rng, played=played, wins=wins)
        played = np.concatenate([played, drawn])
        wins = np.concatenate([wins, worths[drawn[:, 0]] > worths[drawn[:, 1]]])
        rounds.append(drawn)
    return rounds, played


def test_pairs_of_four_by_hand():
    assert all_pairs(4).tolist() == [[0, 1], [1, 2], [2, 3], [3, 0], [0, 2], [3, 1]]


@pytest.mark.parametrize("size", range(2, 14))
def test_all_pairs_meet_once_with_balanced_sides(size):
    pairs = all_pairs(size)
    assert sets(pairs) == {frozenset((i, j)) for i in range(size) for j in range(i)}
    assert len(pairs) == size * (size - 1) // 2
    first, second = counts(pairs, size)
    assert np.abs(first - second).max() == (0 if size % 2 else 1)
    np.testing.assert_array_equal(draw(All(), size), pairs)


def test_one_sample_cannot_be_compared():
    with pytest.raises(ConfigError, match="group_size >= 2, got 1"):
        all_pairs(1)


def test_unbalanced_pairs_by_hand():
    assert draw(AllUnbalanced(), 4).tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]


@pytest.mark.parametrize(("size", "k"), [(8, 2), (9, 4), (12, 6), (12, 3), (6, 1), (24, 6)])
def test_regular_gives_each_sample_k_opponents_on_balanced_sides(size, k):
    pairs = draw(Regular(k), size)
    assert len(sets(pairs)) == len(pairs) == size * k // 2
    first, second = counts(pairs, size)
    np.testing.assert_array_equal(first + second, k)
    assert np.abs(first - second).max() == k % 2


def test_regular_draws_by_chance_and_repeats_with_the_seed():
    assert sets(draw(Regular(2), 12, seed=1)) == sets(draw(Regular(2), 12, seed=1))
    assert sets(draw(Regular(2), 12, seed=1)) != sets(draw(Regular(2), 12, seed=2))


@pytest.mark.parametrize("size", [4, 7])
def test_regular_with_enough_opponents_is_all(size):
    assert sets(draw(Regular(6), size)) == sets(all_pairs(size))


def test_odd_regular_cannot_pair_an_odd_group():
    with pytest.raises(ConfigError, match=r"leaves one of 9 samples over: use regular\(4\) or an even group_size"):
        draw(Regular(3), 9)


def test_second_round_of_swiss_by_hand():
    # 0 and 2 have won, so they meet, and 1 meets 3
    played = np.array([[0, 1], [2, 3]])
    drawn = Swiss(2).draw(4, np.random.default_rng(0), played=played, wins=np.array([1.0, 1.0]))
    assert sets(drawn) == {frozenset((0, 2)), frozenset((1, 3))}


def test_swiss_puts_first_who_stood_first_less_often():
    # 1 has won all, 0 and 3 half, 2 nothing; unknown to each other are 0-2, 1-2 and 1-3, so 1 meets 3 and 0 meets 2
    played = np.array([[0, 1], [2, 3], [0, 3]])
    drawn = Swiss(3).draw(4, np.random.default_rng(0), played=played, wins=np.array([0.0, 0.0, 1.0]))
    # second: 3 twice and 1 once; first: 0 twice and 2 once
    assert drawn.tolist() == [[3, 1], [2, 0]]


def test_a_failed_comparison_says_nothing_in_swiss():
    played = np.array([[0, 1], [2, 3], [4, 5]])
    for seed in range(5):
        drawn = Swiss(2).draw(6, np.random.default_rng(seed), played=played, wins=np.array([1.0, 1.0, np.nan]))
        # by rates: 0 and 2, then 4 and 5 who know each other, then 1 and 3
        assert frozenset((0, 2)) in sets(drawn)
        assert frozenset((4, 5)) not in sets(drawn)


@pytest.mark.parametrize("size", [7, 8, 9, 12])
def test_swiss_never_repeats_a_pair_and_balances_sides(size):
    rounds, played = play(Swiss(4), np.random.default_rng(size).normal(size=size))
    assert len(rounds) == 4
    assert len(sets(played)) == len(played)
    first, second = counts(played, size)
    assert np.abs(first - second).max() <= 2
    assert (first + second).max() == 4
    if size % 2:
        # each round somebody else sits out
        assert np.sum(first + second == 3) >= 4


def test_swiss_ends_when_everyone_has_met():
    rounds, played = play(Swiss(5), [3.0, 2.0, 1.0, 0.0])
    assert sets(played) == sets(all_pairs(4))
    assert len(rounds[-1]) == 0


def test_swiss_leaves_one_undefeated():
    _, played = play(Swiss(3), np.arange(8))
    wins = np.bincount(played.max(axis=1), minlength=8)
    assert wins[7] == 3
    assert np.sum(wins == 3) == 1


@pytest.mark.parametrize(("size", "m"), [(8, 1), (8, 2), (9, 3), (12, 2)])
def test_anchors_meet_everyone(size, m):
    pairs = draw(Anchor(m), size)
    assert len(sets(pairs)) == len(pairs) == m * size - m * (m + 1) // 2
    first, second = counts(pairs, size)
    assert sorted(first + second) == [m] * (size - m) + [size - 1] * m
    assert np.abs(first - second).max() <= 1


def test_more_anchors_than_samples_is_all():
    assert sets(draw(Anchor(9), 4)) == sets(all_pairs(4))


@pytest.mark.parametrize("size", [1, 4, 5])
def test_references_take_turns_in_standing_first(size):
    pairs = reference_pairs(size, np.random.default_rng(0))
    assert sets(pairs) == {frozenset((i, i + size)) for i in range(size)}
    leads = np.sum(pairs[:, 0] < size)
    assert abs(2 * leads - size) == size % 2


def test_who_begins_against_the_references_is_drawn():
    begins = {int(reference_pairs(1, np.random.default_rng(seed))[0, 0]) for seed in range(20)}
    assert begins == {0, 1}


@pytest.mark.parametrize(
    ("written", "schedule"),
    [
        ("all", All()),
        ("regular(4)", Regular(4)),
        (" swiss ( 3 ) ", Swiss(3)),
        ("anchor", Anchor(2)),
        ({"name": "regular", "k": 4}, Regular(4)),
        ({"name": "swiss"}, Swiss(4)),
        (Anchor(5), Anchor(5)),
    ],
)
def test_schedules_by_name(written, schedule):
    assert make_schedule(written) == schedule


@pytest.mark.parametrize(
    ("written", "error", "message"),
    [
        ("regulr(6)", UnknownNameError, "unknown schedule 'regulr'. Did you mean 'regular'"),
        (
            {"name": "regular", "degree": 4},
            UnknownNameError,
            "unknown setting of schedule 'regular' 'degree'. Known: k",
        ),
        (
            {"name": "regular", "K": 4},
            UnknownNameError,
            "unknown setting of schedule 'regular' 'K'. Known: k",
        ),
        ({"name": "all", "k": 4}, UnknownNameError, "unknown setting of schedule 'all' 'k'"),
        ("all(3)", ConfigError, r"'all' takes no number, got 'all\(3\)'"),
        ("regular(0)", ConfigError, "k of schedule 'regular' must be a whole number of at least 1, got 0"),
        ({"name": "swiss", "rounds": 2.5}, ConfigError, "rounds of schedule 'swiss'.*got 2.5"),
        ({"name": "anchor", "m": True}, ConfigError, "m of schedule 'anchor'.*got True"),
        ("regular(-1)", ConfigError, "expected a schedule such as"),
        (6, ConfigError, "expected a schedule such as.*got 6"),
        ({"k": 6}, ConfigError, "expected a schedule such as"),
    ],
)
def test_what_cannot_be_a_schedule(written, error, message):
    with pytest.raises(error, match=message):
        make_schedule(written)
