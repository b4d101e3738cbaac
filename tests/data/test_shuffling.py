from __future__ import annotations

import pytest

from flexgym.data import MediaFile, PreferencePair, in_orders, shuffle_sides
from flexgym.data.shuffling import is_swapped
from tests.data.builders import pair


def row(**changes):
    return PreferencePair.model_validate(pair(**changes))


PAIRS = [row(prompt=f"prompt {number}", first=f"{number}/a.png", second=f"{number}/b.png") for number in range(4000)]


@pytest.mark.parametrize("seed", [0, 1, -7])
def test_the_coin_is_fair(seed):
    winners = [shuffle_sides(item, seed).winner for item in PAIRS]
    assert abs(sum(winners) - 2000) < 130  # four standard deviations


def test_seeds_are_independent():
    agree = sum(is_swapped(item, 0) == is_swapped(item, 1) for item in PAIRS)
    assert abs(agree - 2000) < 130


def test_what_the_coin_depends_on():
    swaps = [is_swapped(item, 3) for item in PAIRS]
    assert swaps == [is_swapped(item, 3) for item in reversed(PAIRS)][::-1]
    moved = [item.with_files(lambda file: MediaFile(path=f"/elsewhere/{file.path}")) for item in PAIRS]
    assert [is_swapped(item, 3) for item in moved] == swaps
    relabeled = [item.model_copy(update={"winner": None, "category": "x"}) for item in PAIRS]
    assert [is_swapped(item, 3) for item in relabeled] == swaps
    named = [item.model_copy(update={"id": str(number)}) for number, item in enumerate(PAIRS)]
    assert 0.4 < sum(is_swapped(item, 3) for item in named) / 4000 < 0.6
    assert [is_swapped(item, 3) for item in named] != swaps


def test_the_coin_stays_the_same():
    # Another one would put the sides of data sets that are in use in another order.
    assert "".join("01"[is_swapped(item, 0)] for item in PAIRS[:16]) == "0001110000001000"


def test_the_label_follows():
    for item in PAIRS[:50]:
        shuffled = shuffle_sides(item, 0)
        assert (shuffled.first, shuffled.second)[shuffled.winner] == item.first
        assert shuffled == (item.swapped() if is_swapped(item, 0) else item)


def test_the_orders_of_a_pair():
    for item in PAIRS[:8]:
        assert in_orders(item, "both", 0) == (item, item.swapped())
        assert in_orders(item, "given", 0) == (item,)
        assert in_orders(item, "shuffled", 3) == (shuffle_sides(item, 3),)
