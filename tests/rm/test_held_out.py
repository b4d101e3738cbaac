"""Held-out rows: the figures depend on rows and weights alone, and the training on none of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from flexgym.core.errors import ConfigError
from flexgym.rm.command import app
from flexgym.rm.held_out import Share
from flexgym.rm.trainable import JudgeTrainable
from flexgym.runs.loop import TrainingRun
from flexgym.runs.metrics import read_metrics
from tests.rm.small import LORA, measured, numbers, small_config, steps, weights

pytestmark = pytest.mark.usefixtures("learner_pairs")

KINDS = ["sft", "dpo"]
NEVER = {"time/iteration_s", "time/eval_s"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "learners", "size"), [(7, 1, 2), (7, 2, 2), (16, 2, 4), (3, 4, 1), (13, 3, 2), (1, 1, 4)]
)
def test_every_row_counts_once_and_all_learners_keep_step(rows, learners, size):
    forwards = [Share(rank, learners, size).forwards(np.arange(rows)) for rank in range(learners)]
    counted = [int(row) for parts in forwards for part in parts if part.counts for row in part.rows]
    assert sorted(counted) == list(range(rows))
    assert all([len(part.rows) for part in parts] == [len(part.rows) for part in forwards[0]] for parts in forwards)
    assert all(1 <= len(part.rows) <= size for part in forwards[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_figures_do_not_depend_on_how_rows_are_cut(kind, checkpoint, files, unseen):
    """All rows in one forward give TRL's own means."""
    found = []
    for size, num_learners in ((7, 0), (1, 0), (2, 0), (2, 2)):
        config = small_config(
            kind,
            checkpoint,
            files[kind],
            training={"micro_batch_size": size, "batch_size": 7 if size == 7 else 4},
            held_out={"files": [str(unseen[kind])]},
            resources={"num_learners": num_learners},
        )
        algorithm = config.build_algo()
        found.append(numbers(algorithm.evaluate_held_out()))
        algorithm.stop()
    expected = {name: value for name, value in found[0].items() if name not in NEVER}
    assert {"eval/loss", "eval/mean_token_accuracy", "eval/entropy"} <= expected.keys()
    assert ("eval/rewards/margins" in expected) == (kind == "dpo")
    assert "eval/num_tokens" not in expected
    for figures in found[1:]:
        assert {name: figures[name] for name in expected} == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_figures_are_those_of_the_weights(checkpoint, files, unseen):
    """Training on other rows of the same kind lowers the loss on these."""
    config = small_config("sft", checkpoint, files["sft"], mode="full", held_out={"files": [str(unseen["sft"])]})
    algorithm, metrics = steps(config, 4)
    again = numbers(algorithm.evaluate_held_out())
    algorithm.stop()
    assert metrics[-1]["eval/loss"] < metrics[0]["eval/loss"]
    assert again["eval/loss"] == metrics[-1]["eval/loss"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.slow
def test_training_takes_the_same_steps_with_and_without(kind, checkpoint, files, unseen):
    found = []
    for names in ([], [str(unseen[kind])]):
        trainer = {"disable_dropout": False} if kind == "dpo" else {}
        config = small_config(
            kind,
            checkpoint,
            files[kind],
            # what a forward in the wrong mode, or a draw too many, would show in
            judge={"lora": {**LORA, "lora_dropout": 0.5}},
            training={"gradient_checkpointing": True, "trainer": trainer},
            held_out={"files": names},
        )
        algorithm = config.build_algo()
        algorithm.evaluate_held_out()
        metrics = [measured(algorithm) for _ in range(3)]
        found.append((metrics, weights(algorithm)))
        algorithm.stop()
    (plain, own), (checked, other) = found
    for before, after in zip(plain, checked, strict=True):
        assert all(after[name] == before[name] for name in before.keys() - NEVER)
        assert "eval/loss" in after
    assert all(torch.equal(own[name], other[name]) for name in own)


def test_every_part_of_the_model_keeps_its_mode(checkpoint, files, unseen):
    sections = {"training": {"gradient_checkpointing": True}, "held_out": {"files": [str(unseen["sft"])]}}
    config = small_config("sft", checkpoint, files["sft"], **sections)
    algorithm = config.build_algo()
    model = algorithm.learner_group._learner.judge_module.model
    model.train()
    model.get_base_model().model.visual.eval()

    def modes():
        return [(part.training, getattr(part, "gradient_checkpointing", None)) for part in model.modules()]

    before = modes()
    algorithm.evaluate_held_out()
    assert modes() == before
    assert all(parameter.grad is None for parameter in model.parameters())
    algorithm.stop()


@pytest.mark.slow
def test_a_run_reports_them_from_before_the_first_step(checkpoint, files, unseen, tmp_path: Path, capsys):
    run = {"root": str(tmp_path), "name": "run", "iterations": 3}
    held_out = {"files": [str(unseen["sft"])], "interval": 2}
    config = small_config("sft", checkpoint, files["sft"], run=run, held_out=held_out)
    folder = TrainingRun(JudgeTrainable(config), config.settings.run).train()
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3]
    assert ["eval/loss" in row for row in rows] == [True, False, True, False]
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("eval/loss")] == [0, 2]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("iteration")]
    assert ["eval/mean_token_accuracy" in line for line in lines] == [True, False, True, False]


def test_the_command_takes_them_and_a_dry_run_checks_them(checkpoint, files, unseen):
    words = ["train", "sft", f"judge.source={checkpoint}", f"data.files=[{files['sft']}]", "training.batch_size=4"]
    words += ["judge.sharding=none"]
    result = CliRunner().invoke(app, [*words, f"held_out.files=[{unseen['sft']}]", "held_out.max_rows=5", "--dry-run"])
    assert result.exit_code == 0, result.output
    assert "held out: rows: 7 good, 0 bad" in result.output
    for value, message in (
        (f"held_out.files=[{files['sft']}]", "in both"),
        ("held_out.files=[lost.jsonl]", "lost.jsonl"),
    ):
        result = CliRunner().invoke(app, [*words, value, "--dry-run"])
        assert result.exit_code == 2
        assert message in result.output


def test_settings_that_cannot_work_are_refused(checkpoint, files):
    for setting in ({"interval": 0}, {"max_rows": 0}):
        with pytest.raises(ConfigError, match=rf"held_out\.{next(iter(setting))}"):
            small_config("sft", checkpoint, files["sft"], held_out=setting)
