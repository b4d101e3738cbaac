from __future__ import annotations

from pathlib import Path

import pytest
import torch

from agents.pref_grpo import PrefGRPOConfig
from flexgym.core.errors import CheckpointError, ConfigError, UnknownNameError
from flexgym.rllib.trainable import AgentTrainable
from flexgym.runs import RunFolder
from flexgym.runs.loop import TrainingRun
from flexgym.runs.settings import RunSettings


def test_settings_of_a_run_are_the_section_of_a_recipe():
    assert RunSettings.parse({}) == RunSettings()
    assert RunSettings.parse({"name": "a", "iterations": 3, "minutes": 0.5}) == RunSettings("a", "runs", 3, 0.5)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"iteratons": 3}, UnknownNameError, "unknown setting of section 'run' 'iteratons'. Did you mean 'iterations'"),
        ({7: 3}, UnknownNameError, "unknown setting of section 'run' '7'. Known: checkpoint_interval, iterations"),
        ({"iterations": 0}, ConfigError, "run.iterations must be a whole number of at least 1, got 0"),
        ({"keep": "all"}, ConfigError, "run.keep must be a whole number of at least 1, got 'all'"),
        ({"checkpoint_interval": None}, ConfigError, "run.checkpoint_interval must be .*, got None"),
        (["name"], ConfigError, r"section 'run': expected settings by name, got \['name'\]"),
    ],
)
def test_what_cannot_be_settings_of_a_run(values, error, message):
    with pytest.raises(error, match=message):
        RunSettings.parse(values)


class UnbuildableConfig(PrefGRPOConfig):
    """Fails where a generator that cannot be loaded does."""

    threads = 0

    def build_algo(self):
        type(self).threads = torch.get_num_threads()
        raise ConfigError("no such generator")


def test_a_run_that_could_not_start_is_free_for_others(cluster, tmp_path: Path):
    with RunFolder.create(tmp_path, "a") as folder:
        folder.checkpoints.publish(0, lambda path: (path / "state").write_text("x") and None)
    run = TrainingRun(AgentTrainable(UnbuildableConfig()), RunSettings(), resume=tmp_path / "a", command=["train"])
    with pytest.raises(CheckpointError, match="the run is open in this process"):
        RunFolder.resume(tmp_path / "a")
    with pytest.raises(ConfigError, match="no such generator"):
        run.train()
    RunFolder.resume(tmp_path / "a").close()


def test_policy_and_judge_have_half_of_the_threads_each_while_a_run_lasts(cluster, tmp_path: Path):
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        run = TrainingRun(AgentTrainable(UnbuildableConfig()), RunSettings(root=str(tmp_path)))
        with pytest.raises(ConfigError, match="no such generator"):
            run.train()
        assert (UnbuildableConfig.threads, torch.get_num_threads()) == (2, 4)
    finally:
        torch.set_num_threads(before)
