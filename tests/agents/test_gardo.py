"""Gate, diversity weight and reference reset of GARDO (arXiv 2512.24138) as options of any algorithm."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from flexgym.config import AgentSettings
from flexgym.rllib.sharded import METRICS
from tests.agents.small import SMALL, largest_difference, merged, small_config, train, weights

GARDO = {
    "algorithm": {"penalties": {"anchor": {"coeff": 10.0, "gated": True}}},
    "rollout": {"group_size": 4, "prompts_per_iteration": 4},
    "reward": {"monitors": ["Diversity", "JPEGCompressibility"]},
    "training": {
        "lr": 1e-3,
        "num_updates": 2,
        "advantage": {"std": "none", "diversity": "Diversity"},
        "gate": {"monitors": ["JPEGCompressibility"], "share": 0.2},
        "anchor": {"interval": 2},
    },
}


def config(name="grpo", **changes):
    return small_config(**merged(merged(GARDO, {"algorithm": {"name": name}}), changes))


def anchored(algorithm):
    """Largest difference between the anchor and the current weights."""

    def compare(learner):
        weights = learner.generator.weights
        return largest_difference(weights.copies_state()["anchor"], weights.state())

    return algorithm.on_first_learner(compare)


@pytest.mark.parametrize("mode", ["lora", pytest.param("full", marks=pytest.mark.slow)])
def test_the_anchor_is_reset_in_time_and_all_of_it_resumes_exactly(cluster, mode, tmp_path: Path):
    setup = config(generator={"mode": mode, "lora": {"rank": 4}})
    algorithm, first = train(setup)
    assert first["penalty/anchor"] > 0.0
    assert (first["policy/anchor_resets"], first["policy/gate_share"]) == (0.0, 0.2)
    assert anchored(algorithm) > 0.0
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    second = algorithm.train()[METRICS]
    assert second["policy/anchor_resets"] == 1.0
    assert anchored(algorithm) == 0.0
    expected_metrics, expected = algorithm.train()[METRICS], weights(algorithm)
    assert expected_metrics["policy/anchor_resets"] == 0.0
    algorithm.stop()
    resumed = setup.copy(copy_frozen=False).build_algo()
    resumed.restore_from_path(str(tmp_path / "checkpoint"))
    resumed.train()
    metrics = resumed.train()[METRICS]
    assert largest_difference(weights(resumed), expected) == 0.0
    for name in ("penalty/anchor", "policy/gate_share", "policy/anchor_resets", "loss/policy"):
        assert metrics[name] == expected_metrics[name]
    resumed.stop()


@pytest.mark.slow
def test_an_anchor_resets_when_the_policy_is_too_far(cluster):
    algorithm, metrics = train(config("matching", training={"anchor": {"interval": None, "distance": 1e-12}}))
    algorithm.stop()
    assert metrics["policy/anchor_resets"] == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"gate": {"monitors": ["Aesthetic"]}}}, "Did you mean|Known: Diversity"),
        ({"training": {"advantage": {"diversity": "Divers"}}}, "Did you mean 'Diversity'"),
        ({"training": {"gate": None}}, "set training.gate"),
        ({"algorithm": {"penalties": {"anchor": {"gated": False}}}}, "set gated: true"),
        ({"training": {"anchor": None}}, "kept with training.anchor"),
        ({"algorithm": {"penalties": {"anchor": {"coeff": 0.0}}}}, "set algorithm.penalties.anchor.coeff above 0"),
        ({"training": {"anchor": {"interval": None}}}, "expected interval or distance"),
        ({"training": {"gate": {"share": 0.9}}}, "low <= share <= high"),
    ],
)
def test_options_without_an_effect_are_refused(changes, message):
    settings = merged(merged(SMALL, GARDO), changes)
    _, problems = AgentSettings.check(settings)
    assert any(re.search(message, problem.message) for problem in problems), problems


def test_the_gate_waits_for_all_groups():
    training = config().settings.training
    assert not training.stay_in_group
    assert not training.advantage.stay_in_group
