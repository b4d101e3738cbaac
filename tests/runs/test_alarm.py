from __future__ import annotations

import pytest

from flexgym.runs.alarm import WATCHED, signs_of_hacking


def rows(watched, *, name="eval/accuracy", reward=None, every=5):
    reward = reward or [0.01 * iteration for iteration in range(len(watched) * every)]
    found = [{"iteration": iteration, "reward/mean": value} for iteration, value in enumerate(reward)]
    for number, value in enumerate(watched):
        found[number * every][name] = value
    return found


def signs(found, patience=3, drop=0.1):
    return signs_of_hacking(found, patience=patience, drop=drop)


@pytest.mark.parametrize("name", [*WATCHED, "eval/PickScore", "eval/own/diversity"])
def test_a_held_out_metric_that_falls_while_the_reward_rises_is_a_sign(name):
    found = signs(rows([0.4, 0.6, 0.7, 0.6, 0.55, 0.5], name=name))
    assert list(map(str, found)) == [f"{name} fell from 0.7 at iteration 10 to 0.5, while the reward rose."]


@pytest.mark.parametrize(
    "watched",
    [
        [0.4, 0.5, 0.6, 0.7, 0.8],  # rises
        [0.4, 0.7, 0.65, 0.68, 0.66],  # falls by less than a tenth
        [0.7, 0.5, 0.5],  # not for long enough
        [0.7, 0.5, 0.7, 0.5, 0.5],  # came back in between
    ],
)
def test_other_curves_are_none(watched):
    assert signs(rows(watched)) == []


def test_other_metrics_are_not_watched():
    falling = [0.4, 0.6, 0.7, 0.6, 0.55, 0.5]
    for name in ("eval/verifier_score", "eval/category/counting", "policy/gradient_norm"):
        assert signs(rows(falling, name=name)) == []


def test_a_reward_that_falls_as_well_is_another_problem():
    falling = [1.0 - 0.01 * iteration for iteration in range(30)]
    assert signs(rows([0.4, 0.6, 0.7, 0.6, 0.55, 0.5], reward=falling)) == []


def test_win_rates_against_the_reference_count_where_there_are_some():
    found = rows([0.7, 0.6, 0.55, 0.5], reward=[0.5] * 20)
    assert signs(found) == []
    for row in found:
        row["reward/win_rate_vs_reference"] = 0.5 + 0.01 * row["iteration"]
    assert len(signs(found)) == 1


def test_monitors_are_smoothed():
    noisy = [0.5 + 0.2 * (-1) ** iteration for iteration in range(100)]
    assert signs(rows(noisy, name="monitor/ShapesVerifier", every=1)) == []
    falling = [0.8 - 0.005 * iteration + 0.05 * (-1) ** iteration for iteration in range(100)]
    assert len(signs(rows(falling, name="monitor/ShapesVerifier", every=1))) == 1
