"""Training on a data set through Ray: learning, exact resuming, several learners, and damaged rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexgym.agents.base import AgentComponents, load_agent_settings
from flexgym.config import AgentSettings
from flexgym.config.load import load_settings
from flexgym.core.errors import ConfigError
from flexgym.data import DataError
from flexgym.data.order import EpochOrder
from flexgym.rllib.command import make_agent_run
from flexgym.runs.metrics import read_metrics
from tests.agents.small import METRICS, config_of, largest_difference, merged, train, weights
from tests.data.builders import image_bytes, write_images, write_lines

VARIANTS = {
    "sft": {"name": "sft"},
    "reward_weighted": {"name": "reward_weighted"},
    "best_of_n": {"name": "best_of_n"},
    "diffusion_dpo": {"name": "diffusion_dpo", "beta": 100.0},
    "matching": {"name": "matching", "levels": {"source": "uniform"}},
}
WINDOW = {"size": 2, "first": [0, 1]}
BASE = {
    "generator": {"mode": "full", "sampling": {"num_steps": 4}},
    "data": {"caption_dropout": 0.2},
    "rollout": {"group_size": 2, "prompts_per_iteration": 4, "groups_per_forward": 2},
    "training": {"lr": 1e-3, "ema_decay": 0.9},
}

pytestmark = pytest.mark.slow


def fed(variant="sft", **sections):
    return config_of(
        load_settings(AgentSettings, merged({**BASE, "algorithm": {**VARIANTS[variant], "window": WINDOW}}, sections))
    )


@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_training_resumes_exactly(variant, mode, cluster, tmp_path: Path):
    config = fed(variant, generator={"mode": mode}, training={"num_updates": 2})
    algorithm, _ = train(config, 1)
    before = weights(algorithm)
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    expected_metrics, expected = algorithm.train()[METRICS], weights(algorithm)
    algorithm.stop()
    assert largest_difference(before, expected) > 0.0
    resumed = config.copy(copy_frozen=False).build_algo()
    resumed.restore_from_path(str(tmp_path / "checkpoint"))
    metrics = resumed.train()[METRICS]
    assert largest_difference(weights(resumed), expected) == 0.0
    assert metrics["data/epochs"] == expected_metrics["data/epochs"] == 8 / 10_000
    assert metrics["data/score"] == expected_metrics["data/score"]
    assert not any(name.startswith("reward/") for name in metrics)
    resumed.stop()


def test_two_learners_train_as_one(learner_pairs):
    one, two = (train(fed(resources={"num_learners": count}), 2)[0] for count in (0, 2))
    assert largest_difference(weights(one), weights(two)) < 1e-6
    for algorithm in (one, two):
        algorithm.stop()


def test_the_loss_falls_on_a_few_images(cluster, tmp_path: Path):
    write_images(tmp_path, "a.png", "b.png")
    rows = [{"prompt": f"a picture of noise {name}", "image": f"{name}.png"} for name in "ab"]
    config = fed(
        data={"files": str(write_lines(tmp_path / "a.jsonl", rows)), "caption_dropout": 0.0},
        rollout={"group_size": 1, "prompts_per_iteration": 16, "groups_per_forward": 16},
        algorithm={"levels": {"source": "uniform", "count": 1, "stratified": True, "low": 0.5}},
        training={"lr": 2e-3},
    )
    algorithm, first = train(config)
    for _ in range(30):
        last = algorithm.train()[METRICS]
    algorithm.stop()
    assert last["loss/matching"] < 0.7 * first["loss/matching"]
    assert last["data/epochs"] == 31 * 8


def test_a_row_that_breaks_in_training_costs_no_finished_iteration(cluster, tmp_path: Path):
    names = [f"{number}.png" for number in range(8)]
    write_images(tmp_path, *names)
    path = write_lines(tmp_path / "a.jsonl", [{"prompt": f"p {name}", "image": name} for name in names])
    recipe = merged(
        {**BASE, "algorithm": {"name": "sft", "window": WINDOW}},
        {
            "data": {"files": str(path), "verify": "exists"},
            "rollout": {"group_size": 1, "prompts_per_iteration": 4},
            "run": {"iterations": 3, "root": str(tmp_path / "runs"), "name": "run", "checkpoint_interval": 10},
        },
    )
    settings = load_agent_settings(recipe)
    last = EpochOrder(8, settings.run.seed).row(6)
    (tmp_path / names[last]).write_bytes(image_bytes(kind="PNG")[:50])
    run = make_agent_run(settings, AgentComponents())
    with pytest.raises(DataError, match=rf"a\.jsonl, line {last + 1}: .*{names[last]}"):
        run.train()
    folder = tmp_path / "runs" / "run"
    assert [row["iteration"] for row in read_metrics(folder / "metrics.jsonl")] == [0, 1]
    write_images(tmp_path, *names)
    resumed = make_agent_run(settings, AgentComponents(), resume=folder).train()
    assert [row["iteration"] for row in read_metrics(resumed / "metrics.jsonl")] == [0, 1, 2, 3]


def test_a_data_set_that_cannot_be_read_is_said_before_training(cluster, tmp_path: Path):
    with pytest.raises((DataError, ConfigError), match="matches none"):
        train(fed(data={"files": str(tmp_path / "missing.jsonl")}))
