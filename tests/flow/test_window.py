from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.flow import (
    CPS,
    ODE,
    DanceSDE,
    FlowSDE,
    Window,
    WindowSchedule,
    deterministic_steps,
    require_stochastic,
)
from tests.flow.vectors import VECTORS

GRID = torch.linspace(1, 0, 11)


def starts(schedule: WindowSchedule, iterations: int, seed: int = 0) -> list[int]:
    return [schedule.at(iteration, seed).start for iteration in range(iterations)]


def test_window_by_hand():
    window = Window(start=2, size=3)
    assert window.steps == range(2, 5)
    assert list(window.steps) == [2, 3, 4]
    assert window.stop == 5
    assert len(window) == 3
    assert [step in window for step in range(7)] == [False, False, True, True, True, False, False]


def test_random_windows_are_shared_and_deterministic():
    first, second = (WindowSchedule(num_steps=10, size=3, strategy="random", first=(0, 4)) for _ in range(2))
    assert starts(first, 50, seed=7) == starts(second, 50, seed=7)
    assert first.at(31, 7) == second.at(31, 7)  # asked for out of order
    assert starts(first, 50, seed=7) != starts(first, 50, seed=8)


def test_random_windows_cover_their_range_evenly():
    drawn = starts(WindowSchedule(num_steps=10, size=3, strategy="random", first=(1, 4)), 800)
    counts = {start: drawn.count(start) for start in set(drawn)}
    assert set(counts) == {1, 2, 3, 4}
    assert all(150 < count < 250 for count in counts.values())  # 200 expected, standard deviation 12


def test_random_windows_without_range_cover_all_that_fit():
    schedule = WindowSchedule(num_steps=6, size=4)
    assert set(starts(schedule, 100)) == {0, 1, 2}
    assert schedule.windows == (Window(0, 4), Window(1, 4), Window(2, 4))


def test_progressive_window_moves_and_rolls_back():
    schedule = WindowSchedule(num_steps=5, size=3, strategy="progressive", every=2)
    assert starts(schedule, 8) == [0, 0, 1, 1, 2, 2, 0, 0]


def test_progressive_window_strides_within_its_range():
    schedule = WindowSchedule(num_steps=10, size=2, strategy="progressive", first=(1, 6), every=1, stride=2)
    assert starts(schedule, 5, seed=3) == [1, 3, 5, 6, 1]
    assert schedule.windows == (Window(1, 2), Window(3, 2), Window(5, 2), Window(6, 2))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_progressive_window_trains_every_step_of_its_range(data):
    num_steps = data.draw(st.integers(1, 30))
    size = data.draw(st.integers(1, num_steps))
    stride = data.draw(st.integers(1, size))
    low = data.draw(st.integers(0, num_steps - size))
    high = data.draw(st.integers(low, num_steps - size))
    schedule = WindowSchedule(num_steps, size, "progressive", first=(low, high), stride=stride)
    assert {step for window in schedule.windows for step in window.steps} == set(range(low, high + size))
    if (high - low) % stride == 0:
        assert [window.start for window in schedule.windows] == list(range(low, high + 1, stride))


def test_strides_equal_to_the_size_reach_the_tail():
    schedule = WindowSchedule(num_steps=10, size=3, strategy="progressive", stride=3, every=1)
    assert starts(schedule, 5) == [0, 3, 6, 7, 0]


def test_all_leaves_out_the_last_step():
    assert WindowSchedule(num_steps=10, strategy="all").at(3, 1) == Window(0, 9)
    assert WindowSchedule(num_steps=1, strategy="all").at(0, 0) == Window(0, 1)
    assert WindowSchedule(num_steps=10, size=10).at(3, 1) == Window(0, 10)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), strategy=st.sampled_from(["random", "progressive"]))
def test_windows_stay_within_the_steps_and_are_announced(data, strategy):
    num_steps = data.draw(st.integers(1, 30))
    size = data.draw(st.integers(1, num_steps))
    schedule = WindowSchedule(num_steps, size, strategy, every=data.draw(st.integers(1, 4)))
    window = schedule.at(data.draw(st.integers(0, 10_000)), data.draw(st.integers(0, 2**31)))
    assert window in schedule.windows
    assert len(window) == size
    assert window.start >= 0
    assert window.stop <= num_steps


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"size": 11}, "size must be between 1 and num_steps=10, got 11"),
        ({"size": 0}, "got 0"),
        ({}, "got None"),
        ({"size": 3, "first": (0, 8)}, r"first=\(0, 8\) puts a window of 3 steps outside of the 10 steps"),
        ({"size": 3, "first": (-1, 2)}, "outside"),
        ({"size": 3, "first": (4, 2)}, "outside"),
        ({"size": 3, "every": 0}, "every"),
        ({"size": 3, "stride": 0}, "stride"),
        ({"size": 3, "stride": 4, "strategy": "progressive"}, "stride must be at most size=3"),
        ({"size": 3, "strategy": "all"}, "neither size nor first"),
        ({"size": 3, "strategy": "progressive", "every": (2, 4)}, r"does not increase, got \(2, 4\)"),
        ({"size": 3, "strategy": "progressive", "every": (2, 0)}, "at least 1"),
        ({"size": 3, "strategy": "progressive", "decay": (3, 0.0)}, "positive rate"),
        ({"size": 3, "strategy": "progressive", "every": (4, 2), "decay": (3, 0.1)}, "not both"),
        ({"size": 3, "every": (4, 2)}, "needs strategy 'progressive', got 'random'"),
        ({"strategy": "all", "decay": (3, 0.1)}, "needs strategy 'progressive', got 'all'"),
    ],
)
def test_impossible_schedules_are_refused(settings_, message):
    with pytest.raises(ConfigError, match=message):
        WindowSchedule(num_steps=10, **settings_)


def test_other_refusals():
    with pytest.raises(UnknownNameError, match="Did you mean 'progressive'"):
        WindowSchedule(num_steps=10, size=3, strategy="progresive")
    with pytest.raises(ConfigError, match="iteration=-1"):
        WindowSchedule(num_steps=10, size=3).at(-1, 0)
    with pytest.raises(ConfigError, match="start=-1"):
        Window(-1, 2)
    with pytest.raises(ConfigError, match="size=0"):
        Window(0, 0)


@pytest.mark.parametrize(
    ("noise", "expected"),
    [
        (ODE(), tuple(range(10))),
        (CPS(0.8), (9,)),
        (FlowSDE(0.7), ()),
        (DanceSDE(0.3), ()),
        (FlowSDE(0.0), tuple(range(10))),
    ],
)
def test_deterministic_steps(noise, expected):
    assert deterministic_steps(GRID, noise) == expected


def test_windows_with_a_silent_step_are_rejected():
    require_stochastic(Window(7, 2), GRID, CPS(0.8))
    require_stochastic(Window(7, 3), GRID, FlowSDE(0.7))
    with pytest.raises(ConfigError, match=r"steps 7 to 9 contains steps \[9\], where noise scale 'cps' \(eta=0.8\)"):
        require_stochastic(Window(7, 3), GRID, CPS(0.8))
    with pytest.raises(ConfigError, match="exceeds the grid of 10 steps"):
        require_stochastic(Window(8, 3), GRID, FlowSDE(0.7))


def test_a_whole_schedule_is_checked_before_training():
    require_stochastic(WindowSchedule(10, 3, first=(0, 6)).windows, GRID, CPS(0.8))
    require_stochastic(WindowSchedule(10, strategy="all").windows, GRID, CPS(0.8))
    with pytest.raises(ConfigError, match="steps 7 to 9"):
        require_stochastic(WindowSchedule(10, 3, first=(0, 7)).windows, GRID, CPS(0.8))


def runs(schedule: WindowSchedule, iterations: int) -> list[list[object]]:
    """Consecutive equal windows as [steps, number of iterations], in the form of the vectors."""
    found: list[list[object]] = []
    for iteration in range(iterations):
        steps = list(schedule.at(iteration, 0).steps)
        if found and found[-1][0] == steps:
            found[-1][1] += 1
        else:
            found.append([steps, 1])
    return found


@pytest.mark.parametrize(
    ("name", "settings_", "full"),
    [
        ("progressive", {}, 20),
        ("progressive_no_overlap", {"stride": 4}, 5),
        ("decay_10_to_1", {"every": (10, 1)}, 20),
        ("exp_decay", {"decay": (13, 0.1)}, 20),
    ],
)
def test_windows_of_mixgrpo_until_those_of_the_authors_shrink(name, settings_, full):
    expected = VECTORS["mixgrpo_windows"]["expected"][name]
    # 25 steps of which the authors train 23
    schedule = WindowSchedule(25, 4, "progressive", first=(0, 19), **settings_)
    length = sum(iterations for _, iterations in expected[:full])
    found = runs(schedule, length + 200)
    assert found[:full] == expected[:full]
    assert len(expected[full][0]) < 4
    assert all(len(steps) == 4 for steps, _ in found)
    again = found[full:] if schedule.stride == 1 else found[full + 1 :]  # a last full window, after a shorter stride
    assert again[0] == expected[0]


def test_random_windows_of_mixgrpo_have_the_range_of_the_authors():
    drawn = starts(WindowSchedule(25, 4, first=(0, 19)), 400)
    assert (min(drawn), max(drawn)) == (0, 19)
    assert all(0 <= start <= 19 for start in VECTORS["mixgrpo_windows"]["expected"]["random_seed_is_iteration"])


def test_decay_begins_at_the_first_position():
    schedule = WindowSchedule(10, 2, "progressive", first=(3, 6), every=(5, 1))  # empty at 8: 5, 4.2, 3.4, 2.6
    assert runs(schedule, 15) == [[[3, 4], 5], [[4, 5], 4], [[5, 6], 3], [[6, 7], 2], [[3, 4], 1]]


@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_decaying_windows_are_never_empty(data):
    num_steps = data.draw(st.integers(1, 20))
    size = data.draw(st.integers(1, num_steps))
    least = data.draw(st.integers(1, 3))
    varied = data.draw(
        st.sampled_from([{"every": (least + 4, least)}, {"every": 5, "decay": (data.draw(st.integers(0, 20)), 0.7)}])
    )
    schedule = WindowSchedule(num_steps, size, "progressive", **varied)
    seen = {schedule.at(iteration, 1) for iteration in range(8 * num_steps)}
    assert seen == set(schedule.windows)
