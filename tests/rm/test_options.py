"""Options about a model follow its ``judge_config.json`` where they say nothing themselves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model

from flexgym.data import PreferencePair
from flexgym.judge.backends.base import Decoding
from flexgym.judge.inputs import Inputs
from flexgym.judge.sources import CONFIG_NAME, read_judge_config
from flexgym.rm.items import batches
from flexgym.rm.options import AskOptions, DataOptions
from flexgym.rm.processor import load_model
from flexgym.rm.saving import export_judge, save_inputs, save_judge
from tests.data.builders import image_bytes, write_lines
from tests.rm.small import LORA

STATED = {"inputs": {"num_frames": 5, "format": "png", "max_side": 16}, "decoding": {"max_tokens": 160}}


@pytest.fixture
def judge(tmp_path: Path) -> list[str]:
    """A folder that says how its judge is asked."""
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / CONFIG_NAME).write_text(json.dumps(STATED))
    return [str(tmp_path / "judge")]


def test_a_judge_says_how_it_is_asked(judge: list[str]) -> None:
    for options, frames, length in ((AskOptions(), 5, 160), (AskOptions(num_frames=3, max_tokens=99), 3, 99)):
        assert options.question(judge).num_frames == frames
        assert options.inputs(judge) == Inputs(format="png", num_frames=frames, max_side=16)
        assert options.decoding(judge) == Decoding(max_tokens=length)
    silent = AskOptions()
    assert silent.inputs(["http://localhost:8080/v1"]) == Inputs()
    assert silent.decoding(["oracle"]) == Decoding()


def test_queries_are_encoded_as_the_judge_says(judge: list[str], tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(image_bytes(ord(name), (64, 48), "PNG"))
    row = {"prompt": "a cat", "kind": "image", "first": "a.png", "second": "b.png", "winner": 0}
    PreferencePair.model_validate(row)
    file = write_lines(tmp_path / "pairs.jsonl", [row])
    items = DataOptions(tmp_path / "out.jsonl").items([file], AskOptions(), judge)
    (query,) = next(batches(items, {}))  # type: ignore[arg-type]
    assert [picture.media_type for picture in query.request.pictures] == ["image/png"] * 2


@pytest.mark.parametrize("mode", ["lora", "full"])
def test_an_export_keeps_how_its_judge_was_trained(mode: str, checkpoint: Path, tmp_path: Path) -> None:
    model = load_model(checkpoint, "float32")
    if mode == "lora":
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **LORA))
    inputs = Inputs(format="png", max_side=64)
    trained = save_judge(model, checkpoint, tmp_path / "trained")
    save_inputs(inputs, checkpoint, trained)
    out = export_judge(trained, checkpoint, tmp_path / "judge", dtype="float32")
    assert Inputs(**read_judge_config(out).inputs) == inputs
