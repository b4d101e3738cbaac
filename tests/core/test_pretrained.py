"""Files of a checkpoint that no library expects."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from flexgym.core.errors import CheckpointError
from flexgym.judge.backends.transformers_model import TransformersBackend
from flexgym.rm.processor import load_model, load_processor
from tests.judge.backends.tiny_qwen_vl import save_tiny_qwen_vl

PARTS = ("config.json", "preprocessor_config.json", "tokenizer.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_qwen_vl(tmp_path_factory.mktemp("judge"))


@pytest.mark.parametrize("text", ["[]", "[1, 2]", '"x"', "3", "null", "{", "\x00"])
@pytest.mark.parametrize("name", PARTS)
def test_what_is_no_part_of_a_checkpoint_is_a_checkpoint_error(whole: Path, tmp_path: Path, name: str, text: str):
    folder = shutil.copytree(whole, tmp_path / "judge")
    (folder / name).write_text(text)
    for load in (load_model,) if name == "config.json" else (load_processor, TransformersBackend):
        with pytest.raises(CheckpointError, match=str(folder)):
            load(folder)
