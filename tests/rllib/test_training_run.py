from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flexgym.config import RunSettings
from flexgym.core.errors import CheckpointError, ConfigError
from flexgym.rllib.config import FlowConfig
from flexgym.rllib.trainable import AgentTrainable
from flexgym.runs import RunFolder
from flexgym.runs.loop import TrainingRun
from tests.agents.small import small_config


@pytest.fixture
def unbuildable(monkeypatch):
    """A trainable that fails where a generator that cannot be loaded does, and the threads that torch had then."""
    threads = []

    def build_algo(config):
        threads.append(torch.get_num_threads())
        raise ConfigError("no such generator")

    monkeypatch.setattr(FlowConfig, "build_algo", build_algo)
    return AgentTrainable(small_config()), threads


def test_a_run_that_could_not_start_is_free_for_others(unbuildable, cluster, tmp_path: Path):
    with RunFolder.create(tmp_path, "a") as folder:
        folder.checkpoints.publish(0, lambda path: (path / "state").write_text("x") and None)
    run = TrainingRun(unbuildable[0], RunSettings(), resume=tmp_path / "a", command=["train"])
    with pytest.raises(CheckpointError, match="the run is open in this process"):
        RunFolder.resume(tmp_path / "a")
    with pytest.raises(ConfigError, match="no such generator"):
        run.train()
    RunFolder.resume(tmp_path / "a").close()


def test_policy_and_judge_have_half_of_the_threads_each_while_a_run_lasts(unbuildable, cluster, tmp_path: Path):
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        run = TrainingRun(unbuildable[0], RunSettings(root=str(tmp_path)))
        with pytest.raises(ConfigError, match="no such generator"):
            run.train()
        assert (unbuildable[1], torch.get_num_threads()) == ([2], 4)
    finally:
        torch.set_num_threads(before)
