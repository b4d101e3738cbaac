"""Ten steps of judge training equal ten steps of TRL's own trainers on the same rows, with the defaults of both."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from torch.utils.data import SequentialSampler
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from flexgym.judge.sources import EMBEDDED_JUDGE, locate_judge
from flexgym.rm.processor import load_model, load_processor
from flexgym.rm.stream import BatchStream
from tests.rm.small import small_config, steps, weights

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cluster")]

STEPS, BATCH = 10, 4
SIZES = ((32, 32), (64, 32), (1100, 40), (48, 48))  # one is larger than what a judge in use gets
RATES = {"sft": SFTConfig(output_dir="x", use_cpu=True, bf16=False).learning_rate, "dpo": 1e-6}


def write_rows(folder: Path, count: int = 12) -> list[dict]:
    """Rows of both kinds, with JPEG and PNG files of different sizes."""
    rng, rows = np.random.default_rng(0), []
    for number in range(count):
        width, height = SIZES[number % len(SIZES)]
        names = [f"{number}a.png", f"{number}b.jpg"]
        for name in names:
            Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(folder / name)
        replies = f"Image {number % 2 + 1} " + "well " * (number % 4), "neither"
        rows.append({"images": names, "asked": f"Which one? {'so ' * (number % 5)}", "replies": replies})
    return rows


def own_form(kind: str, row: dict) -> dict:
    """A row as in our files."""
    asked, (good, bad) = [{"role": "user", "content": row["asked"]}], row["replies"]
    if kind == "sft":
        return {"images": row["images"], "messages": [*asked, {"role": "assistant", "content": good}]}
    return {"images": row["images"], "prompt": asked, "chosen": good, "rejected": bad}


def form_of_trl(kind: str, row: dict, folder: Path) -> dict:
    """A row as TRL documents it: images as Pillow opens them, and messages with texts."""
    replies = [[{"role": "assistant", "content": reply}] for reply in row["replies"]]
    about = {"images": [Image.open(folder / name) for name in row["images"]]}
    about["prompt"] = [{"role": "user", "content": row["asked"]}]
    return about | ({"completion": replies[0]} if kind == "sft" else {"chosen": replies[0], "rejected": replies[1]})


def trained_by_trl(kind: str, rows: list[dict], folder: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and weights of TRL's own loop, which takes the rows in their order."""
    judge = locate_judge(EMBEDDED_JUDGE)
    arguments = {
        "output_dir": str(folder / "trl"),
        "per_device_train_batch_size": BATCH,
        "max_steps": STEPS,
        "logging_steps": 1,
        "max_length": None,
        "bf16": False,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
    }
    common = {"train_dataset": Dataset.from_list([form_of_trl(kind, row, folder) for row in rows])}
    common["processing_class"] = load_processor(judge)
    model = load_model(judge, "float32")
    if kind == "sft":
        trainer = SFTTrainer(model, args=SFTConfig(**arguments), **common)
    else:
        reference = load_model(judge, "float32")
        trainer = DPOTrainer(model, ref_model=reference, args=DPOConfig(**arguments), **common)
    trainer._get_train_sampler = SequentialSampler
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return losses, {name: value.detach() for name, value in model.named_parameters()}


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_ten_steps_equal_those_of_trl(kind: str, tmp_path: Path) -> None:
    rows = write_rows(tmp_path)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(own_form(kind, row)) + "\n" for row in rows))
    rate = RATES[kind]
    training = {
        "lr": [[0, rate], [STEPS * BATCH, 0.0]],  # as TRL's default schedule
        "batch_size": BATCH,
        "micro_batch_size": BATCH,
        "gradient_checkpointing": True,
    }
    judge = locate_judge(EMBEDDED_JUDGE)
    config = small_config(kind, Path(judge), tmp_path / "rows.jsonl", mode="full", training=training)
    algorithm, measured = steps(config, STEPS)
    ours = {name.removeprefix("model."): value for name, value in weights(algorithm).items()}
    lengths = algorithm.on_learners(lambda learner: learner.rows.lengths)[0]
    algorithm.stop()
    stream = BatchStream(lengths, batch_size=BATCH, seed=config.settings.run.seed)
    order = [int(number) for _ in range(STEPS) for number in stream.take()]
    losses, theirs = trained_by_trl(kind, [rows[number] for number in order], tmp_path)
    start = dict(load_model(judge, "float32").named_parameters())
    assert ours.keys() == theirs.keys()
    assert max((theirs[name] - start[name]).abs().max() for name in theirs) > 3 * rate
    assert [row["loss"] for row in measured] == pytest.approx(losses, rel=1e-6)
    assert max((ours[name] - theirs[name]).abs().max() for name in theirs) < 1e-5
