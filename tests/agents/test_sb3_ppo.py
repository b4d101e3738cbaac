from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from stable_baselines3.common.callbacks import BaseCallback

from flexgym.agents.sb3_ppo import DEFAULT_RECIPE, load_sb3_settings, make_run
from flexgym.config.recipe import apply_overrides, load_recipe
from flexgym.core.errors import ConfigError, RewardError, UnknownNameError
from flexgym.core.state_files import read_state
from flexgym.runs.metrics import read_metrics
from flexgym.runs.recipe import saved_recipe

SMALL = (
    "run.iterations=2",
    "run.checkpoint_interval=1",
    "environment.num_envs=2",
    "environment.settings={group_size: 1, num_steps: 2}",
    "verification.num_prompts=3",
    "training.steps_per_iteration=8",
    "PPO.n_steps=4",
    "PPO.batch_size=4",
    "PPO.n_epochs=1",
    "SAC.learning_starts=4",
    "SAC.batch_size=4",
    "SAC.buffer_size=64",
)


def small(tmp_path, *overrides):
    changes = [f"run.root={tmp_path}", "run.name=run", *SMALL, *overrides]
    return load_sb3_settings(apply_overrides(load_recipe(DEFAULT_RECIPE), changes))


def resumed(folder, *overrides):
    return load_sb3_settings(apply_overrides(saved_recipe(folder), overrides))


def saved_policy(folder):
    return read_state(folder / "checkpoints" / "iteration_000002" / "model")["parameters"]["policy"]


def rows(folder):
    return read_metrics(folder / "metrics.jsonl")


@pytest.mark.parametrize("algorithm", ["PPO", pytest.param("SAC", marks=pytest.mark.slow)])
def test_a_run_leaves_metrics_pictures_and_checkpoints_and_goes_on(tmp_path, algorithm):
    folder = make_run(small(tmp_path, f"training.algorithm={algorithm}")).train()
    assert [(row["iteration"], row["steps"]) for row in rows(folder)] == [(0, 0), (1, 8), (2, 16)]
    first, middle, last = rows(folder)
    assert {"eval/verifier_accuracy"} <= first.keys() & last.keys()
    assert {"reward/mean", "action/guidance_scale", "action/eta"} <= middle.keys()
    assert 0.0 <= middle["reward/mean"] <= 1.0
    assert any(name.startswith("train/") for name in last)
    assert [path.name for path in sorted((folder / "samples").iterdir())] == [
        "iteration_000000.png",
        "iteration_000002.png",
    ]
    assert sorted(path.name for path in (folder / "checkpoints").glob("iteration_*")) == [
        "iteration_000001",
        "iteration_000002",
    ]
    assert list((folder / "tensorboard").iterdir())
    assert make_run(resumed(folder, "run.iterations=3"), folder).train() == folder
    assert [(row["iteration"], row["steps"]) for row in rows(folder)] == [(0, 0), (1, 8), (2, 16), (3, 24)]


@pytest.mark.slow
def test_going_on_starts_from_the_saved_policy(tmp_path):
    folder = make_run(small(tmp_path)).train()
    saved = saved_policy(folder)
    seen = {}

    class Look(BaseCallback):
        def _on_training_start(self):
            seen.update({name: value.clone() for name, value in self.model.policy.state_dict().items()})
            seen["steps"] = self.num_timesteps

        def _on_step(self):
            return True

    make_run(resumed(folder, "run.iterations=3"), folder, callbacks=[Look()]).train()
    assert seen.pop("steps") == 16
    for name, value in saved.items():
        assert torch.equal(value, seen[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["A2C", "DDPG", "PPO", "SAC", "TD3"])
def test_a_resumed_run_equals_an_undisturbed_one(tmp_path, algorithm):
    """Five steps for each environment in an iteration cut the third episode of two decisions."""
    chosen = [f"training.algorithm={algorithm}", "training.steps_per_iteration=10", "PPO.n_steps=5", "run.iterations=3"]
    chosen += ["environment.settings={group_size: 1, num_steps: 2, decisions: 2}", "PPO.policy_kwargs={net_arch: [8]}"]
    if algorithm in ("DDPG", "TD3"):
        chosen += [f"{algorithm}.{name}" for name in ("learning_starts=4", "batch_size=4", "buffer_size=64")]
    whole = make_run(small(tmp_path, *chosen, "run.name=whole")).train()
    assert make_run(small(tmp_path, *chosen, "run.iterations=2")).train() == tmp_path / "run"
    parts = make_run(resumed(tmp_path / "run", "run.iterations=3"), tmp_path / "run").train()
    untimed = [[{key: row[key] for key in row if "time/" not in key} for row in rows(run)] for run in (whole, parts)]
    untimed[1][2] = {key: untimed[1][2][key] for key in untimed[0][2]}  # the first part ended with a verification
    assert untimed[0] == untimed[1]
    saved = [read_state(run / "checkpoints" / "iteration_000003" / "model") for run in (whole, parts)]
    assert repr(saved[0]["counts"]) == repr(saved[1]["counts"])
    for name, value in saved[0]["parameters"]["policy"].items():
        assert torch.equal(value, saved[1]["parameters"]["policy"][name]), name


def test_an_iteration_without_the_end_of_an_episode_is_explained(tmp_path):
    settings = small(tmp_path, "environment.settings={group_size: 1, num_steps: 8, decisions: 8}")
    with pytest.raises(ConfigError, match="at least environment.num_envs times the steps of an episode"):
        make_run(settings).train()


@pytest.mark.slow
def test_the_same_seed_trains_the_same_and_another_does_not(tmp_path):
    ends = [saved_policy(make_run(small(tmp_path, f"run.seed={seed}")).train()) for seed in (0, 0, 1)]
    flat = [torch.cat([value.flatten() for value in policy.values()]) for policy in ends]
    assert torch.equal(flat[0], flat[1])
    assert not torch.equal(flat[0], flat[2])


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path, capfd):
    class Interrupt(BaseCallback):
        def _on_step(self):
            if self.num_timesteps == 12:
                os.kill(os.getpid(), signal.SIGINT)
            return True

    command = ["python", "-m", "agents.sb3_ppo"]
    folder = make_run(small(tmp_path, "run.iterations=9"), command=command, callbacks=[Interrupt()]).train()
    assert [row["iteration"] for row in rows(folder)] == [0, 1, 2]
    assert (folder / "checkpoints" / "iteration_000002").is_dir()
    assert "python -m agents.sb3_ppo --resume" in capfd.readouterr().out.replace("\n", " ")


def test_time_ends_a_run(tmp_path):
    folder = make_run(small(tmp_path, "run.iterations=90", "run.minutes=0.0001")).train()
    assert [row["iteration"] for row in rows(folder)] == [0, 1]
    assert "eval/verifier_accuracy" in rows(folder)[-1]


def test_a_reward_that_fails_ends_the_run_and_keeps_its_weights(tmp_path):
    recipe = small(tmp_path, "environment.settings.prompts=[a horse on the moon]")
    with pytest.raises(RewardError, match="could be scored"):
        make_run(recipe).train()
    assert (tmp_path / "run" / "checkpoints" / "iteration_000000" / "model" / "state.json").is_file()


def test_several_decisions_make_one_episode(tmp_path):
    folder = make_run(small(tmp_path, "environment.settings.decisions=2")).train()
    assert rows(folder)[-1]["steps"] == 16
    assert np.isfinite(rows(folder)[-1]["reward/mean"])


def test_unknown_names_are_told_before_a_folder_is_made(tmp_path):
    for override, message in (
        ("reward.name=ShapeVerifier", "ShapesVerifier"),
        ("verification.reward=x", "reward 'x'"),
    ):
        with pytest.raises(UnknownNameError, match=message):
            make_run(small(tmp_path, override))
    assert not list(tmp_path.iterdir())


def test_the_command_teaches(tmp_path):
    command = [sys.executable, "-m", "agents.sb3_ppo", "training.algorithm=PO"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "Did you mean 'PPO'?" in done.stderr
