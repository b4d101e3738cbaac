"""The judge's own making: it learns to see, and every later step runs from one folder."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import flexgym
from flexgym.judge.sources import EMBEDDED_JUDGE, locate_judge
from research.judge.candidates import draw_candidates
from research.judge.checkpoint import NUM_FRAMES, build_judge
from research.judge.make import ORDERS_DISTILLED, SETS, STAGES, Round, make_data, make_judge, make_mean, table
from research.judge.pretrain import Batches, PicturePool, Recipe, train

LITTLE = Round(
    (0, 24, 12, 12, 0),
    whole=(8, 8, 4, 4, 8),
    dpo=(96, 96, 8, 8, 0),
    counting=8,
    policy=8,
    held_out=4,
    sft_passes=1,
    dpo_passes=1,
    steps=(4, 4),
)


def pools(count=6):
    groups = {
        kind: list(itertools.islice(draw_candidates(kind, "rendered", splits=("training",), seed=0), count))
        for kind in ("image", "video")
    }
    return {kind: PicturePool(each) for kind, each in groups.items()}


@pytest.fixture(scope="module")
def seeing():
    torch.manual_seed(0)
    return build_judge()


def test_a_batch_teaches_the_descriptions_alone(seeing):
    model, tokenizer = seeing
    texts, patches = next(pools()["video"].stream(np.random.default_rng(0), 3))
    batch = Batches(tokenizer, model.config).collate(texts, patches, images=2 * NUM_FRAMES)
    assert (batch["input_ids"] == model.config.image_token_id).sum() == 3 * 2 * NUM_FRAMES * 16
    assert batch["pixel_values"].shape == (3 * 2 * NUM_FRAMES * 64, 96)
    for row, (caption, told) in enumerate(texts):
        labels = batch["labels"][row]
        assert tokenizer.decode(labels[labels != -100]) == told + "<|im_end|>"
        assert caption in tokenizer.decode(batch["input_ids"][row])
        assert told.startswith("Video 1: ")


@pytest.mark.slow
def test_training_lowers_the_loss(seeing):
    model, tokenizer = seeing
    recipe = Recipe({}, 8, {"image": 8, "video": 4}, 0.03, bfloat16=False)  # warm-up holds it down
    batches, drawn = Batches(tokenizer, model.config), pools()
    texts, patches = next(drawn["image"].stream(np.random.default_rng(1), 16))
    batch = batches.collate(texts, patches, images=2)

    def loss():
        with torch.no_grad():
            return float(model(**batch).loss)

    before = loss()
    train(model, batches, drawn, recipe=recipe, seed=0)
    assert loss() < before - 0.2


@pytest.mark.slow
def test_from_data_to_the_table_and_again(tmp_path):
    base = locate_judge(EMBEDDED_JUDGE)  # a judge that has not learned writes no right trace to prefer
    policy = Path(flexgym.__file__).parent / "shapes" / "checkpoints" / "t2i"
    for _ in range(2):  # the second time, everything is there
        make_data(tmp_path, LITTLE, [policy])
        make_judge(tmp_path, base, seed=0, plan=LITTLE)
    assert all((tmp_path / "seed0" / stage / "model.safetensors").is_file() for stage in STAGES)
    lines = table(tmp_path, [0]).splitlines()
    assert len(lines) == 2 + 3 * 4
    traces = {
        name: [json.loads(line) for line in (tmp_path / f"traces_{name}.jsonl").open()] for name in ORDERS_DISTILLED
    }
    drawn = {f"shapes-{kind}-{source}" for kind, source in SETS}
    any_pairs = drawn - {"shapes-image-rendered", "shapes-image-frames"} | {"shapes-image-t2i"}
    assert {row["source"] for row in traces["any"]} == any_pairs
    assert {row["source"] for row in traces["whole"]} == drawn
    assert len(traces["whole"]) == 2 * sum(LITTLE.whole)
    assert lines[2].startswith("| rendered images, right | ")
    weights = load_file(tmp_path / "seed0" / "sft" / "model.safetensors")
    shutil.copytree(tmp_path / "seed0", tmp_path / "seed1")
    others = {name: 1.001 * value for name, value in weights.items()}
    save_file(others, tmp_path / "seed1" / "sft" / "model.safetensors", metadata={"format": "pt"})
    mean = load_file(make_mean(tmp_path, [0, 1]) / "model.safetensors")
    assert all(torch.allclose(mean[name], 1.0005 * value, rtol=1e-6) for name, value in weights.items())
    heads, _, first, *_ = table(tmp_path, [0, 1]).splitlines()
    assert heads.endswith(" mean weights of SFT |")
    assert first.count(" to ") == len(STAGES)  # of the mean of the weights there is one, of the rest one of each seed
    assert first.count("|") == heads.count("|")
