"""A training step of the stages `SFT` and `DPO` against that of TRL's own trainer, on the same batch in one process.

Both take their rows from the same data set in memory; what reading from disk costs is printed beside it.
"""

from __future__ import annotations

import time
from statistics import median

import pytest
from datasets import Dataset
from transformers import TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from flexgym.rm.processor import load_model, load_processor
from tests.judge.backends.tiny_qwen_vl import save_tiny_qwen_vl
from tests.rm.small import small_config, write_rows

pytestmark = pytest.mark.benchmark
ROWS, STEPS, ROUNDS, LIMIT = 16, 8, 4, 1.10


class StepTimes(TrainerCallback):
    """Wall time of every optimizer step of TRL's loop, the reading of its rows included."""

    def __init__(self):
        self.ends = []

    def on_step_end(self, args, state, control, **kwargs):
        self.ends.append(time.perf_counter())


def seconds_of_trl(kind, checkpoint, rows, folder):
    arguments = {
        "output_dir": str(folder),
        "per_device_train_batch_size": ROWS,
        "max_steps": STEPS + 1,
        "max_length": None,
        "bf16": False,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }
    times = StepTimes()
    common = {
        "train_dataset": rows,
        "processing_class": load_processor(checkpoint),
        "callbacks": [times],
    }
    model = load_model(checkpoint, "float32")
    if kind == "sft":
        trainer = SFTTrainer(model, args=SFTConfig(completion_only_loss=True, **arguments), **common)
    else:
        reference = load_model(checkpoint, "float32")
        trainer = DPOTrainer(model, ref_model=reference, args=DPOConfig(**arguments), **common)
    trainer.train()
    return [after - before for before, after in zip(times.ends, times.ends[1:], strict=False)]


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_a_step_costs_hardly_more_than_that_of_trl(cluster, kind, tmp_path, capsys):
    checkpoint = save_tiny_qwen_vl(tmp_path / "tiny")
    file = write_rows(tmp_path / "rows", count=ROWS)[kind]
    training = {"batch_size": ROWS, "micro_batch_size": ROWS, "steps_per_iteration": STEPS}
    config = small_config(kind, checkpoint, file, mode="full", training=training)
    algorithm = config.build_algo()
    started = time.perf_counter()
    examples = algorithm.on_learners(lambda learner: [learner.rows[row] for row in range(ROWS)])[0]
    reading = (time.perf_counter() - started) / ROWS
    rows = Dataset.from_list(examples)
    algorithm.on_learners(lambda learner: setattr(learner, "rows", rows))
    ours, theirs = [], []
    for _ in range(ROUNDS):
        theirs += seconds_of_trl(kind, checkpoint, rows, tmp_path / "trl")
        started = time.perf_counter()
        algorithm.train()
        ours.append((time.perf_counter() - started) / STEPS)
    algorithm.stop()
    ratio = median(ours) / median(theirs)
    with capsys.disabled():
        print(
            f"\n{kind}: {median(ours):.3f} s a step of {ROWS} rows, TRL's own trainer {median(theirs):.3f} s, ratio"
            f" {ratio:.3f}; a row from disk {1000 * reading:.1f} ms"
        )
    assert ratio <= LIMIT
