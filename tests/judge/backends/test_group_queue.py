"""Requests are dealt group by group, and nobody idles while there is work."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from flexgym.judge.backends.group_queue import GroupQueue, Homes


def drain(queue: GroupQueue, taker: str) -> list[int]:
    taken = []
    while (index := queue.take(taker)) is not None:
        taken.append(index)
    return taken


def test_each_taker_works_on_a_group_of_its_own():
    queue = GroupQueue(["x", "x", "x", "y", "y", "y"], Homes())
    assert [queue.take(taker) for taker in "abab"] == [0, 3, 1, 4]


def test_a_taker_without_a_group_helps_with_the_longest():
    queue = GroupQueue(["x"] * 2 + ["y"] * 4, Homes())
    assert [queue.take(taker) for taker in "abc"] == [0, 2, 3]
    assert drain(queue, "c") == [4, 5, 1]
    assert queue.take("a") is None


def test_groups_return_to_those_who_know_them():
    homes = Homes()
    first = GroupQueue(["x", "y"], homes)
    assert [first.take("a"), first.take("b")] == [0, 1]
    later = GroupQueue(["y", "new", "x"], homes)
    assert [later.take("a"), later.take("b")] == [2, 0]
    assert later.take("c") == 1


def test_a_group_whose_taker_never_comes_back_is_taken_by_another():
    queue = GroupQueue(["x", "x"], Homes({"x": "gone"}))
    assert drain(queue, "a") == [0, 1]


def test_homes_forget_the_oldest():
    homes = Homes()
    for group in range(5000):
        homes[group] = "a"
    assert len(homes) == 4096
    assert 4999 in homes
    assert 0 not in homes


@given(groups=st.lists(st.integers(0, 5), max_size=40), order=st.lists(st.sampled_from("abc"), max_size=80))
def test_every_request_is_taken_once(groups, order):
    queue = GroupQueue(groups, Homes())
    taken = [index for taker in order if (index := queue.take(taker)) is not None]
    assert sorted(taken + drain(queue, "a")) == list(range(len(groups)))
