"""Judges as checkpoint folders that transformers and vLLM load as they are."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import Tensor

from flexgym.core.errors import CheckpointError, ConfigError
from flexgym.rm.processor import load_model

JUDGE = "judge"
"""Folder of a checkpoint that holds the trained judge, which `flexgym.rm export` reads."""
_ADAPTER = "adapter_config.json"
# What stands beside the weights: tokenizer, chat template, processors of pictures and videos, stop tokens.
_COMPANIONS = ("*.json", "*.jinja", "*.txt", "*.model")
_OF_WEIGHTS = ("config.json", "model.safetensors.index.json")


def save_judge(model: Any, source: str | Path, folder: Path, *, state: Mapping[str, Tensor] | None = None) -> Path:
    """Write a trained model: an adapter, or all weights with what belongs beside them.

    Args:
        model: of transformers, or of peft.
        source: the checkpoint that it was made from.
        folder: to write into; made when missing.
        state: the weights, where the model holds parts of them only.
    """
    if isinstance(model, PeftModel):
        # TRL's frozen copy of it, which DPO compares with, is not part of the result.
        model.save_pretrained(folder, state_dict=state, selected_adapters=["default"])
    else:
        model.save_pretrained(folder, state_dict=state)
        copy_companions(source, folder)
    return folder


def export_judge(trained: Path, source: str | Path, out: Path, *, dtype: str = "bfloat16") -> Path:
    """Make one folder of what was trained, with an adapter merged into the weights.

    Args:
        trained: as `save_judge` wrote it.
        source: the checkpoint that an adapter belongs to.
        out: a folder that does not exist yet; it appears once it is complete.
        dtype: of the weights, ``"bfloat16"`` or ``"float32"``.

    Raises:
        ConfigError: ``out`` exists.
        CheckpointError: nothing trained is there, or the checkpoint of the adapter is missing.
    """
    if out.exists():
        raise ConfigError(f"{out} exists already: name another folder, nothing is overwritten")
    if not (trained / "config.json").is_file() and not (trained / _ADAPTER).is_file():
        raise CheckpointError(f"expected a trained judge in {trained}, found neither config.json nor {_ADAPTER}")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as workspace:
        folder = Path(workspace) / out.name
        if (trained / _ADAPTER).is_file():
            merged = PeftModel.from_pretrained(load_model(source, dtype), trained).merge_and_unload()
            save_judge(merged, source, folder)
        else:
            save_judge(load_model(trained, dtype), trained, folder)
        folder.replace(out)
    return out


def copy_companions(source: str | Path, folder: Path) -> None:
    """Copy what stands beside the weights of a checkpoint; what is there already stays."""
    origin = Path(source)
    if not origin.is_dir():
        from huggingface_hub import snapshot_download

        origin = Path(snapshot_download(str(source), allow_patterns=list(_COMPANIONS)))
    for pattern in _COMPANIONS:
        for file in origin.glob(pattern):
            if file.name not in _OF_WEIGHTS and not (folder / file.name).exists():
                shutil.copyfile(file, folder / file.name)
