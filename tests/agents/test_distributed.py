"""Pref-GRPO over several processes, under Tune, and killed in the middle of its work."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import ray

from flexgym.algorithm.rollout import sample
from flexgym.commands.train import train_words
from flexgym.core.errors import RewardError
from flexgym.rllib.algorithm import FlowAlgorithm
from flexgym.rllib.sharded import METRICS
from flexgym.runs.metrics import read_metrics
from tests.agents.small import OutOfOrder, largest_difference, rewarded_by, small_config, train, weights

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_one_and_two_learners_give_the_same_weights(learner_pairs, mode):
    found = []
    for num_learners in (0, 2):
        config = small_config(
            training={"lr": 3e-4},  # that of the recipes: rounding differs between the two, and the rate scales it
            generator={"mode": mode, "lora": {"rank": 4}},
            rollout={"prompts_per_iteration": 4},
            resources={"num_learners": num_learners},
            verification={"reward": "ShapesVerifier", "num_prompts": 7, "rows_per_forward": 3, "interval": 0},
        )
        algorithm, metrics = train(config, 3)
        assert metrics["policy/max_abs_log_ratio"] == 0.0
        every = algorithm.on_learners(lambda learner: learner.flow_module.get_state())
        assert all(largest_difference(every[0], other) == 0.0 for other in every[1:])
        check_shares_of_a_verification(algorithm, learners=max(1, num_learners))
        found.append(every[0])
        algorithm.stop()
    assert largest_difference(*found) < 1e-6


def check_shares_of_a_verification(algorithm, learners):
    """Each learner samples its share of the blocks, and they are to the bit what one learner makes of all of them."""
    prompts, seeds = algorithm.held_out, list(range(len(algorithm.held_out)))
    parts = algorithm.on_learners(lambda learner: list(learner.evaluate(prompts=prompts, seeds=seeds)))
    assert parts == [list(range(rank, 3, learners)) for rank in range(learners)]
    rows = algorithm.config.settings.verification.rows_per_forward

    def alone(learner):
        with learner.verified_weights():
            return sample(learner.generator, prompts, seeds=seeds, max_rows=rows)

    expected = algorithm.on_first_learner(alone)
    np.testing.assert_array_equal(algorithm.samples_of(prompts, seeds), expected)


def test_separate_env_runners_give_what_colocated_learners_give(cluster):
    found = []
    for num_env_runners in (0, 2):
        config = small_config(rollout={"prompts_per_iteration": 4}, resources={"num_env_runners": num_env_runners})
        algorithm, metrics = train(config, 3)
        assert metrics["policy/max_abs_log_ratio"] == 0.0
        found.append(weights(algorithm))
        algorithm.stop()
    assert largest_difference(*found) < 1e-6


def test_a_lost_env_runner_does_not_stop_training(cluster):
    config = small_config(rollout={"prompts_per_iteration": 4}, resources={"num_env_runners": 2})
    algorithm, _ = train(config)
    ray.kill(algorithm.env_runner_group._worker_manager.actors()[1])
    metrics = algorithm.train()[METRICS]
    algorithm.stop()
    assert metrics["samples"] == 2 * 4 * 3


@pytest.mark.parametrize("std", ["group", "global"])
def test_what_a_reward_raises_on_one_of_two_learners_is_raised(std, learner_pairs, tmp_path: Path):
    config = small_config(training={"advantage": {"std": std}}, resources={"num_learners": 2})
    algorithm = rewarded_by(OutOfOrder, config).build_algo()
    before = weights(algorithm)
    with pytest.raises(RewardError, match="out of order"):
        algorithm.training_step()
    assert largest_difference(weights(algorithm), before) == 0.0
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    assert len(algorithm.on_learners(lambda learner: learner.rank)) == 2, "both are still asked"
    algorithm.stop()


def test_checkpoint_of_two_learners_resumes_on_two(learner_pairs, tmp_path: Path):
    config = small_config(
        training={"ema_decay": 0.9}, rollout={"prompts_per_iteration": 4}, resources={"num_learners": 2}
    )
    algorithm, _ = train(config, 2)
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    algorithm.train()
    expected = weights(algorithm)
    algorithm.stop()
    resumed = config.copy(copy_frozen=False).build_algo()
    resumed.restore_from_path(str(tmp_path / "checkpoint"))
    resumed.train()
    assert largest_difference(weights(resumed), expected) == 0.0
    resumed.stop()


def test_runs_inside_tune(cluster, tmp_path: Path):
    config = small_config()
    config.lr = ray.tune.grid_search([1e-4, 1e-3])
    results = ray.tune.Tuner(
        FlowAlgorithm,
        param_space=config,
        run_config=ray.tune.RunConfig(
            storage_path=str(tmp_path),
            stop={"training_iteration": 2},
            checkpoint_config=ray.tune.CheckpointConfig(checkpoint_at_end=True),
        ),
    ).fit()
    assert not results.errors
    assert len(results) == 2
    again = FlowAlgorithm.from_checkpoint(results[0].checkpoint.path, config=small_config())
    assert again.iteration == 2
    again.stop()


def command(folder: Path, *arguments: str) -> list[str]:
    small = ["rollout.prompts_per_iteration=2", "rollout.groups_per_forward=1", "rollout.group_size=3"]
    small += ["generator.sampling={num_steps: 4}", "algorithm.window={size: 2, strategy: random, first: [0, 1]}"]
    small += ["run.checkpoint_interval=2", "run.name=killed", f"run.root={folder}", "verification.num_prompts=4"]
    return [*train_words("pref_grpo"), "--config=pref_grpo_shapes_t2i.yaml", *small, *arguments]


def rows(run: Path) -> list[dict]:
    return read_metrics(run / "metrics.jsonl") if (run / "metrics.jsonl").exists() else []


def without_times(row: dict) -> dict:
    return {name: value for name, value in row.items() if not name.startswith("time/")}


def test_killed_in_mid_iteration_it_resumes_as_if_nothing_had_happened(tmp_path: Path):
    subprocess.run(command(tmp_path / "whole", "run.iterations=6"), check=True, timeout=300, capture_output=True)
    process = subprocess.Popen(command(tmp_path, "run.iterations=500"), stdout=subprocess.DEVNULL)
    run = tmp_path / "killed"
    deadline = time.monotonic() + 240
    while len(rows(run)) < 6 and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(rows(run)) >= 6
    subprocess.run(
        [*command(tmp_path, "run.iterations=6", "--resume", str(sorted((run / "checkpoints").glob("iter*"))[0]))],
        check=True,
        timeout=300,
        capture_output=True,
    )
    whole, resumed = rows(tmp_path / "whole" / "killed"), rows(run)
    assert [row["iteration"] for row in resumed] == [row["iteration"] for row in whole]
    for before, after in zip(whole, resumed, strict=True):
        assert without_times(before) == without_times(after)


def test_ctrl_c_saves_and_says_how_to_resume(tmp_path: Path):
    start = command(tmp_path, "run.iterations=500")
    process = subprocess.Popen(start, stdout=subprocess.PIPE, text=True, start_new_session=True)
    run = tmp_path / "killed"
    deadline = time.monotonic() + 240
    while len(rows(run)) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    os.killpg(process.pid, signal.SIGINT)  # Ray's processes get it as well, as from a terminal
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "--resume" in output
    newest = sorted((run / "checkpoints").glob("iteration_*"))[-1]
    assert int(newest.name.split("_")[1]) == rows(run)[-1]["iteration"]
