"""Rows are checked and measured on what is trained: the same images, and texts that are only text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from flexgym.config.judge import DataSettings
from flexgym.core.errors import UnknownNameError
from flexgym.data import DPORow, RowError, SFTRow, load_pictures
from flexgym.data.media import AS_STORED
from flexgym.judge.inputs import Inputs
from flexgym.judge.sources import CONFIG_NAME, read_judge_config
from flexgym.rm.processor import load_model, load_processor
from flexgym.rm.rows import RowMeter, dpo_example, sft_example, trained_inputs
from flexgym.rm.saving import save_inputs
from flexgym.rm.sft import SFT
from tests.rm.small import small_settings

SIZES = ((1, 1), (5, 90), (33, 47), (640, 480), (100, 3000), (1536, 1536), (2, 199))
FORMS = {"as_stored": AS_STORED, "as_judged": Inputs(), "small": Inputs(format="png", max_side=100)}


@pytest.fixture(scope="module")
def processor(checkpoint):
    return load_processor(checkpoint)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """An image of each of the sizes, by its size."""
    folder = tmp_path_factory.mktemp("images")
    for width, height in SIZES:
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{width}.png")
    return folder


def sft_row(images, text="which?", reply="the first"):
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": reply}]
    return SFTRow.model_validate({"images": [str(path) for path in images], "messages": turns})


def tokens(row, processor, *, inputs=AS_STORED, longest=10**6):
    as_example = sft_example if isinstance(row, SFTRow) else dpo_example
    return RowMeter(processor, longest, inputs).tokens(row, as_example)


@pytest.fixture(scope="module")
def collator(checkpoint, processor, images):
    """The collator of TRL's trainer."""
    row = sft_row([images / "1.png"])
    sample = Dataset.from_list([{"images": load_pictures(row.images), **sft_example(row)}])
    settings = small_settings("sft", checkpoint, Path("rows.jsonl"))
    model = load_model(checkpoint, "float32")
    return SFT().make_trainer(settings, model, processor=processor, sample=sample).data_collator


@pytest.mark.parametrize(
    "form", ["as_judged", *(pytest.param(form, marks=pytest.mark.slow) for form in ("as_stored", "small"))]
)
def test_rows_are_as_long_as_they_are_measured(form, images, processor, collator):
    """Two images of 1,536 pixels counted as stored, and were trained on with 1,024."""
    for width, _ in SIZES:
        row = sft_row([images / f"{width}.png"] * 2, "First <image>, then <image>: which?")
        example = {"images": load_pictures(row.images, FORMS[form]), **sft_example(row)}
        assert tokens(row, processor, inputs=FORMS[form]) == collator([example])["input_ids"].shape[1]


def test_the_limit_holds_for_what_is_trained(images, processor):
    row = sft_row([images / "1536.png"] * 2)
    as_stored, as_judged = tokens(row, processor), tokens(row, processor, inputs=Inputs(max_side=128))
    assert as_stored > as_judged
    assert tokens(row, processor, inputs=Inputs(max_side=128), longest=as_judged) == as_judged
    with pytest.raises(RowError, match=f"at most {as_judged} tokens, images included, got {as_stored}"):
        tokens(row, processor, longest=as_judged)


@pytest.mark.parametrize("token", ["<|image_pad|>", "<|video_pad|>", "<|im_end|>", "<|im_start|>", "<|vision_start|>"])
def test_special_tokens_in_texts_are_bad(token, images, processor):
    files = [images / "33.png"]
    prompt = [{"role": "user", "content": "which?"}]
    about = {"images": [str(files[0])], "prompt": prompt, "chosen": "a", "rejected": "b"}
    for row, where in (
        (sft_row(files, f"which {token}?"), "prompt: .* of the user"),
        (sft_row(files, reply=f"the first{token}"), "completion: .* of the assistant"),
        (DPORow.model_validate(about | {"rejected": token}), "rejected: .* of the assistant"),
        (DPORow.model_validate(about | {"prompt": [{"role": "system", "content": token}, *prompt]}), "of the system"),
    ):
        with pytest.raises(RowError, match=where) as caught:
            tokens(row, processor)
        assert caught.value.kind == "special_token"
        assert token in str(caught.value)


def test_a_special_token_over_two_parts_is_one(images, processor):
    halves = [{"type": "text", "text": text} for text in ("<|im_", "end|>")]
    with pytest.raises(RowError, match="<|im_end|>"):
        tokens(sft_row([images / "33.png"], halves), processor)
    between = [halves[0], {"type": "image"}, halves[1]]
    assert tokens(sft_row([images / "33.png"], between), processor)
    assert tokens(sft_row([images / "33.png"], "<think>, <|im_end |> and <image>"), processor)


@pytest.mark.parametrize(
    ("given", "stated", "expected"),
    [
        ({}, {}, AS_STORED),
        ({"image_format": "jpeg"}, {}, Inputs(max_side=None)),
        ({"max_side": 64}, {}, Inputs(format="png", max_side=64)),
        ({}, {"format": "jpeg", "quality": 80, "max_side": 512}, Inputs(quality=80, max_side=512)),
        ({"image_format": "png"}, {"format": "jpeg", "max_side": 512}, Inputs(format="png", max_side=512)),
        ({"image_quality": 50, "max_side": 9}, {"format": "jpeg", "num_frames": 4}, Inputs("jpeg", 50, 4, 9)),
    ],
)
def test_settings_come_before_what_a_judge_says_of_itself(given, stated, expected, tmp_path):
    (tmp_path / CONFIG_NAME).write_text(json.dumps({"inputs": stated}))
    assert trained_inputs(DataSettings(files=("rows.jsonl",), **given), str(tmp_path)) == expected


def test_a_judge_that_says_nonsense_of_itself(tmp_path):
    (tmp_path / CONFIG_NAME).write_text('{"inputs": {"max_sides": 3}}')
    with pytest.raises(UnknownNameError, match="max_side"):
        trained_inputs(DataSettings(files=("rows.jsonl",)), str(tmp_path))


def test_a_trained_judge_says_how_it_is_asked(tmp_path):
    source, trained = tmp_path / "source", tmp_path / "trained"
    for folder in (source, trained):
        folder.mkdir()
    (source / CONFIG_NAME).write_text('{"inputs": {"num_frames": 4}, "batch_size": 3}')
    save_inputs(Inputs(), source, trained)
    assert not (trained / CONFIG_NAME).exists()  # that is how it is asked anyway
    save_inputs(Inputs(format="png", max_side=None), source, trained)
    config = read_judge_config(trained)
    assert Inputs(**config.inputs) == Inputs(format="png", max_side=None, num_frames=4)
    assert config.batch_size == 3
