from __future__ import annotations

import pytest

from flexgym.config.sections import ResourceSettings
from flexgym.core.errors import ConfigError, ProcessLostError
from flexgym.rllib import resources
from flexgym.rllib.resources import Request, missing, requests_of, wait_for_resources, what_fits
from tests.agents.small import small_config


def learners(count: int, **each: float) -> Request:
    return Request("learner", "resources.num_learners", count, each)


def runners(count: int, **each: float) -> Request:
    return Request("env runner", "resources.num_env_runners", count, each)


def test_requests_of_a_recipe():
    config = small_config(
        rollout={"prompts_per_iteration": 4},
        resources={"num_learners": 2, "num_gpus_per_learner": 1},
        rllib={"custom_resources_per_learner": {"big": 0.5}},
    )
    assert requests_of(config) == [learners(2, GPU=1, big=0.5)]
    config = small_config(rollout={"prompts_per_iteration": 4}, resources={"num_learners": 1, "num_env_runners": 2})
    assert requests_of(config) == [learners(1, CPU=1), runners(2, CPU=1)]
    assert requests_of(small_config()) == []


@pytest.mark.parametrize(
    ("requests", "nodes", "problem", "fits"),
    [
        ([learners(2, GPU=1)], [{"CPU": 8, "GPU": 2}], [], ""),
        ([learners(4, CPU=1)], [{"CPU": 2}], ["2 of 4 learners fit"], "resources.num_learners=2"),
        (
            [learners(1, GPU=4)],
            [{"GPU": 2}, {"GPU": 2}],
            ["no machine has room for a learner"],
            "resources.num_learners=0, or at most 2 GPU for each learner",
        ),
        ([learners(3, GPU=2)], [{"GPU": 3}, {"GPU": 3}], ["2 of 3 learners fit"], "resources.num_learners=2"),
        (
            [learners(2, CPU=1), runners(2, CPU=1)],
            [{"CPU": 3}],
            ["together they need 4 CPU of 3"],
            "resources.num_env_runners=1",
        ),
        ([learners(3, CPU=0.1)], [{"CPU": 0.3}], [], ""),
    ],
)
def test_what_a_cluster_lacks_and_what_would_fit(requests, nodes, problem, fits):
    assert missing(requests, nodes) == problem
    assert what_fits(requests, nodes) == fits


@pytest.fixture
def cluster_of(monkeypatch):
    """Set the resources of each machine, and those that are free at each look; time passes only while waiting."""

    def cluster(total, *free):
        looks, clock, said = list(free), [0.0], []
        monkeypatch.setattr(resources, "_nodes", lambda: total)
        monkeypatch.setattr(resources, "_free_nodes", lambda: looks.pop(0) if len(looks) > 1 else looks[0])
        monkeypatch.setattr(resources.time, "monotonic", lambda: clock[0])
        monkeypatch.setattr(resources.time, "sleep", lambda seconds: clock.__setitem__(0, clock[0] + max(seconds, 0.1)))
        monkeypatch.setattr(resources, "say", said.append)
        return said

    return cluster


def test_what_can_never_be_placed_fails_at_once(cluster_of):
    said = cluster_of([{"CPU": 2.0, "memory": 9e9, "node:10.0.0.1": 1.0}], [{"CPU": 2.0}])
    with pytest.raises(ConfigError) as failed:
        wait_for_resources([learners(4, CPU=1)], ResourceSettings())
    for part in ("requested 4 learners with 1 CPU each", "one with 2 CPU.", "resources.num_learners=2"):
        assert part in str(failed.value)
    assert not said


def test_a_busy_cluster_is_waited_for_with_a_word_every_30_s(cluster_of):
    said = cluster_of([{"GPU": 2}], *[[{"GPU": 1}]] * 70, [{"GPU": 2}])
    wait_for_resources([learners(2, GPU=1)], ResourceSettings())
    assert len(said) == 3
    assert said[0].startswith("Waiting for 2 learners with 1 GPU each: now 1 of 2 learners fit (")


@pytest.mark.parametrize(
    ("settings", "returning", "error"),
    [({}, True, ProcessLostError), ({"autoscaling": True}, False, ConfigError)],
)
def test_machines_that_may_appear_are_waited_for_up_to_the_limit(settings, returning, error, cluster_of):
    said = cluster_of([{"GPU": 1}], [{"GPU": 1}])
    with pytest.raises(error, match=r"no room after 65 s \(resources\.wait_s\)"):
        wait_for_resources([learners(2, GPU=1)], ResourceSettings(wait_s=65, **settings), returning=returning)
    assert len(said) == 3
