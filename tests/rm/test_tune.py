"""Training of a judge under Ray Tune, and on from a checkpoint that Tune wrote."""

from __future__ import annotations

import pytest
import torch
from ray import tune

from flexgym.rm.algorithm import JudgeAlgorithm
from tests.rm.small import measured, small_config, steps, weights

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]

RATES = [1e-2, 1e-3]


@pytest.fixture(scope="module")
def results(checkpoint, files, tmp_path_factory):
    """Two trials of two iterations, each with a checkpoint."""
    held_out = {"files": [str(files["dpo"].with_name("held_out.jsonl"))]}
    config = small_config("sft", checkpoint, files["sft"], held_out=held_out)
    config.training(lr=tune.grid_search(RATES))
    files["dpo"].with_name("held_out.jsonl").write_text(files["sft"].read_text())
    results = tune.Tuner(
        JudgeAlgorithm,
        param_space=config,
        run_config=tune.RunConfig(
            storage_path=str(tmp_path_factory.mktemp("tune")),
            stop={"training_iteration": 2},
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
        ),
    ).fit()
    assert not results.errors
    return {result.config["lr"]: result for result in results}


@pytest.mark.parametrize("rate", RATES)
def test_a_trial_goes_on_from_its_checkpoint_as_if_it_had_never_stopped(rate, results, checkpoint, files):
    trial = results[rate]
    config = small_config("sft", checkpoint, files["sft"], training={"lr": rate})
    whole, metrics = steps(config, 3)
    for name in ("loss", "gradient_norm", "learning_rate", "rows"):
        assert trial.metrics["flexgym"][name] == metrics[1][name]
    again = JudgeAlgorithm.from_checkpoint(trial.checkpoint.path, config=config)
    assert again.iteration == 2
    row = measured(again)
    assert all(row[name] == metrics[2][name] for name in metrics[2] if not name.startswith("time/"))
    own, other = weights(whole), weights(again)
    assert all(torch.equal(own[name], other[name]) for name in own)
    for algorithm in (whole, again):
        algorithm.stop()


def test_trials_can_be_compared_by_held_out_figures(results):
    figures = {rate: trial.metrics["flexgym"]["eval/loss"] for rate, trial in results.items()}
    assert figures[1e-2] != figures[1e-3]
    assert all(figure > 0 for figure in figures.values())
