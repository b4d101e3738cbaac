"""SFT and DPO of a tiny Qwen3-VL: equal to TRL's own trainers, to themselves over learners, and after a resume."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from flexgym.core.errors import CheckpointError, ConfigError
from flexgym.data import DataError
from flexgym.rm.processor import load_model, load_processor
from tests.rm.small import LORA, changed, measured, small_config, steps, weights, write_rows

pytestmark = pytest.mark.usefixtures("learner_pairs")

KINDS = ["sft", "dpo"]
MODES = ["lora", "full"]


QUICK = [("sft", "lora", None), ("dpo", "full", None)]
"""The other combinations are slow tests."""


@pytest.mark.parametrize(
    ("kind", "mode", "compute_dtype"),
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
        for case in itertools.product(KINDS, MODES, (None, "bfloat16"))
    ],
)
def test_the_first_step_equals_that_of_trl(kind, mode, compute_dtype, checkpoint, tmp_path: Path):
    """In mixed precision as closely as in single: the same operations are cast, and rounding is deterministic."""
    file = write_rows(tmp_path, count=4)[kind]
    sections = {"judge": {"compute_dtype": compute_dtype}, "training": {"micro_batch_size": 4}}
    config = small_config(kind, checkpoint, file, mode=mode, **sections)
    algorithm, (ours,) = steps(config, 1)
    examples = algorithm.on_learners(lambda learner: [learner.rows[row] for row in range(4)])[0]
    algorithm.stop()
    theirs = first_step_of_trl(kind, mode, checkpoint, examples, tmp_path, bf16=compute_dtype == "bfloat16")
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
    assert ours["gradient_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-5)


def first_step_of_trl(kind, mode, checkpoint, examples, folder, *, bf16):
    """Loss and gradient norm that TRL's own loop logs for one step over the four rows."""
    torch.manual_seed(0)
    model = load_model(checkpoint, "float32")
    if mode == "lora":
        model = get_peft_model(model.requires_grad_(False), LoraConfig(task_type="CAUSAL_LM", **LORA))
    arguments = {
        "output_dir": str(folder / "trl"),
        "per_device_train_batch_size": 4,
        "max_steps": 1,
        "logging_steps": 1,
        "max_length": None,
        "bf16": bf16,
        "use_cpu": True,
        "report_to": [],
        "gradient_checkpointing": False,
    }
    common = {"train_dataset": Dataset.from_list(examples), "processing_class": load_processor(checkpoint)}
    if kind == "sft":
        trainer = SFTTrainer(model, args=SFTConfig(completion_only_loss=True, **arguments), **common)
    else:
        reference = load_model(checkpoint, "float32") if mode == "full" else None
        trainer = DPOTrainer(model, ref_model=reference, args=DPOConfig(**arguments), **common)
    trainer.train()
    return trainer.state.log_history[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_accumulation_counts_every_token_once(kind, checkpoint, files):
    """Rows differ in length: a mean of the means of micro-batches would be another loss."""
    results = []
    for size in (1, 2, 4):
        config = small_config(kind, checkpoint, files[kind], training={"micro_batch_size": size})
        algorithm, (metrics,) = steps(config, 1)
        algorithm.stop()
        results.append((metrics["loss"], metrics["gradient_norm"]))
    for result in results[1:]:
        assert result == pytest.approx(results[0], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_one_and_two_learners_take_the_same_steps(kind, mode, checkpoint, files):
    config = small_config(kind, checkpoint, files[kind], mode=mode)
    one, first = steps(config, 2)
    two, second = steps(changed(config, resources={"num_learners": 2}), 2)
    for name in ("loss", "gradient_norm"):
        assert second[0][name] == pytest.approx(first[0][name], rel=1e-5)
    own, other = weights(one), weights(two)
    assert max(float((own[name] - other[name]).abs().max()) for name in own) < 1e-3
    for algorithm in (one, two):
        algorithm.stop()


@pytest.mark.parametrize(
    ("kind", "learners"),
    [("sft", 0), *(pytest.param(*case, marks=pytest.mark.slow) for case in (("sft", 2), ("dpo", 0), ("dpo", 2)))],
)
def test_resume_continues_bit_for_bit(kind, learners, checkpoint, files, unseen, tmp_path: Path):
    sections = {
        "resources": {"num_learners": learners},
        "training": {"lr": [[0, 1e-2], [40, 1e-3]]},
        "judge": {"lora": {**LORA, "lora_dropout": 0.1}},  # which draws from torch's generator of each learner
        "held_out": {"files": [str(unseen[kind])], "interval": 3, "max_rows": 5},  # not in step with the save
    }
    config = small_config(kind, checkpoint, files[kind], **sections)
    whole, early = steps(config, 2)
    whole.save_to_path(str(tmp_path / "saved"))
    later = [measured(whole) for _ in range(3)]  # beyond the end of a pass
    assert ["eval/loss" in row for row in (*early, *later)] == [False, False, True, False, False]
    resumed = config.copy(copy_frozen=False).build_algo()
    resumed.restore_from_path(str(tmp_path / "saved"))
    again = [measured(resumed) for _ in range(3)]
    for before, after in zip(later, again, strict=True):
        assert before.keys() == after.keys()
        assert all(before[name] == after[name] for name in before if not name.startswith("time/"))
    first, second = weights(whole), weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    for algorithm in (whole, resumed):
        algorithm.stop()


@pytest.mark.slow
def test_full_training_in_bfloat16_is_saved_and_resumed(checkpoint, files, tmp_path: Path):
    """What the shipped recipe of stage one does; its optimizer keeps bfloat16, too."""
    config = small_config("sft", checkpoint, files["sft"], mode="full", judge={"dtype": "bfloat16"})
    whole, _ = steps(config, 1)
    whole.save_to_path(str(tmp_path / "saved"))
    resumed = config.copy(copy_frozen=False).build_algo()
    resumed.restore_from_path(str(tmp_path / "saved"))
    for _ in range(2):
        assert measured(whole)["loss"] == measured(resumed)["loss"]
    first, second = weights(whole), weights(resumed)
    assert all(torch.equal(first[name], second[name]) for name in first)
    for algorithm in (whole, resumed):
        algorithm.stop()


@pytest.mark.slow
def test_training_lowers_the_loss_and_dpo_widens_the_margin(checkpoint, files):
    for kind, name, sign in (("sft", "loss", -1), ("dpo", "rewards/margins", 1)):
        algorithm, metrics = steps(small_config(kind, checkpoint, files[kind], mode="full"), 6)
        algorithm.stop()
        assert sign * (metrics[-1][name] - metrics[0][name]) > 0


@pytest.mark.slow
def test_gradient_checkpointing_changes_nothing(checkpoint, files):
    norms = []
    for saves_memory in (False, True):
        config = small_config("sft", checkpoint, files["sft"], training={"gradient_checkpointing": saves_memory})
        algorithm, (metrics,) = steps(config, 1)
        algorithm.stop()
        norms.append(metrics["gradient_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_checkpoint_holds_what_trains_and_nothing_else(checkpoint, files):
    algorithm, _ = steps(small_config("sft", checkpoint, files["sft"]), 1)
    assert all("lora" in name for name in weights(algorithm))
    algorithm.stop()


def test_rows_longer_than_the_limit_are_refused_not_cut(checkpoint, files):
    config = small_config("sft", checkpoint, files["sft"], data={"max_length": 20})
    with pytest.raises(DataError, match="too_long"):
        config.build_algo()


def test_bad_rows_stop_the_run_before_anything_trains(checkpoint, tmp_path: Path):
    file = write_rows(tmp_path, count=4)["sft"]
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[2]["images"][0] = "lost.png"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match="missing_file"):
        small_config("sft", checkpoint, file).build_algo()


def test_settings_that_cannot_work_are_refused_before_loading(checkpoint, files):
    with pytest.raises(ConfigError, match="multiple of learners times"):
        small_config("sft", checkpoint, files["sft"], training={"micro_batch_size": 3})


def test_a_hub_id_without_a_network_points_to_folders():
    with pytest.raises(CheckpointError, match="folder"):
        load_model("somebody/something")
