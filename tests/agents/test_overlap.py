"""Judging overlaps with rollout and replay: an iteration costs hardly more than the longer of the two."""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import pytest

from flexgym.core.errors import JudgeUnavailableError
from flexgym.reward import Reward
from flexgym.rllib.config import FlowConfig
from flexgym.rllib.sharded import METRICS
from flexgym.types import GroupScores
from tests.agents.small import largest_difference, rewarded_by, small_config, train, weights

pytestmark = pytest.mark.usefixtures("cluster")


class Slow(Reward):
    """Takes its time for every group; scores follow from the pixels."""

    seconds = 0.0
    fails_at = None

    def score(self, groups):
        time.sleep(self.seconds * len(groups))
        if self.fails_at is not None:
            type(self).fails_at -= 1
            if self.fails_at < 0:
                raise JudgeUnavailableError("the judge is gone")
        return [
            GroupScores(np.array([sample.mean() for sample in group.samples], dtype=np.float32)) for group in groups
        ]


def slow_config(num_updates: int = 1, **rollout) -> FlowConfig:
    config = small_config(
        generator={"sampling": {"num_steps": None}},
        rollout={"group_size": 8, "prompts_per_iteration": 16, "groups_per_forward": 2, **rollout},
        algorithm={"window": {"size": 2, "strategy": "random", "first": [0, 3]}},
        training={"num_updates": num_updates, "lr": 3e-4},
    )
    return rewarded_by(Slow, config)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(Slow, "seconds", 0.0)
    monkeypatch.setattr(Slow, "fails_at", None)


@pytest.mark.slow
def test_an_iteration_takes_as_long_as_its_longer_half(monkeypatch, capsys):
    algorithm, metrics = train(slow_config(), 3)
    monkeypatch.setattr(Slow, "seconds", metrics["time/rollout_s"] / 16)
    rows = [algorithm.train()[METRICS] for _ in range(5)]
    algorithm.stop()
    ratios = [
        row["time/iteration_s"] / max(row["time/rollout_s"] + row["time/update_s"], row["time/reward_s"])
        for row in rows
    ]
    phases = ("rollout", "reward", "update", "iteration")
    middle = {name: median(row[f"time/{name}_s"] for row in rows) for name in phases}
    with capsys.disabled():
        print(f"\n{ {name: round(value, 2) for name, value in middle.items()} }, ratio {median(ratios):.3f}")
    halves = middle["rollout"] + middle["update"], middle["reward"]
    assert sum(halves) >= 1.25 * max(halves)  # so that running in turn would differ from overlapping
    assert median(ratios) <= 1.15


@pytest.mark.slow
@pytest.mark.parametrize("num_updates", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_overlap_changes_nothing_but_the_time(num_updates, monkeypatch):
    config = slow_config(num_updates, group_size=3, prompts_per_iteration=4)
    quick, _ = train(config.copy(copy_frozen=False), 2)
    monkeypatch.setattr(Slow, "seconds", 0.1)
    slow, metrics = train(config, 2)
    assert metrics["time/reward_wait_s"] > 0.0
    assert largest_difference(weights(quick), weights(slow)) == 0.0
    for algorithm in (quick, slow):
        algorithm.stop()


@pytest.mark.slow
@pytest.mark.parametrize("num_updates", [1, 2])
def test_a_lost_judge_leaves_the_weights_as_they_were(num_updates, monkeypatch):
    config = slow_config(num_updates, group_size=3, prompts_per_iteration=4)
    algorithm, _ = train(config, 1)
    before = weights(algorithm)
    monkeypatch.setattr(Slow, "fails_at", 1)
    with pytest.raises(JudgeUnavailableError, match="gone"):
        algorithm.train()
    assert largest_difference(weights(algorithm), before) == 0.0
    assert algorithm.iteration == 1
    monkeypatch.setattr(Slow, "fails_at", None)
    undisturbed, _ = train(config.copy(copy_frozen=False), 2)
    algorithm.train()
    assert largest_difference(weights(algorithm), weights(undisturbed)) == 0.0
    for each in (algorithm, undisturbed):
        each.stop()
