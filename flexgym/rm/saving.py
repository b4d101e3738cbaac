"""Save judges as checkpoint folders that transformers and vLLM can load."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peft import PeftModel
from torch import Tensor

from flexgym.core.errors import CheckpointError, ConfigError
from flexgym.core.files import copy_loaded, held_folder, teaching_disk_errors, write_atomic
from flexgym.core.options import built_settings
from flexgym.core.pretrained import ADAPTER_CONFIG, load_adapter
from flexgym.judge.inputs import Inputs
from flexgym.judge.sources import CONFIG_NAME, read_judge_config
from flexgym.rm.processor import load_model

JUDGE = "judge"
"""Folder of a checkpoint that holds the trained judge, which `flexgym.rm export` reads."""
# Files next to the weights: tokenizer, chat template, image and video processors, stop tokens.
_COMPANIONS = ("*.json", "*.jinja", "*.txt", "*.model")
_OF_WEIGHTS = ("config.json", "model.safetensors.index.json")


def save_judge(model: Any, source: str | Path, folder: Path, *, state: Mapping[str, Tensor] | None = None) -> Path:
    """Save a trained model: an adapter, or all weights with the tokenizer and processor files.

    Args:
        model: a transformers or PEFT model.
        source: checkpoint that the model was loaded from.
        folder: folder to write to; created if it does not exist.
        state: unsharded weights, if the model is sharded.
    """
    if isinstance(model, PeftModel):
        # Exclude TRL's frozen copy of the adapter, which is the DPO reference.
        model.save_pretrained(folder, state_dict=state, selected_adapters=["default"])
    else:
        model.save_pretrained(folder, state_dict=state)
        copy_companions(source, folder)
    return folder


def save_inputs(inputs: Inputs, source: str | Path, folder: Path) -> None:
    """Note in ``judge_config.json`` how the images were encoded that a judge trained on, unless it is asked so anyway.

    Args:
        inputs: how images are encoded.
        source: checkpoint that the model was loaded from, whose other settings are kept.
        folder: folder of the trained judge.
    """
    config = read_judge_config(source)
    trained = {"format": inputs.format, "quality": inputs.quality, "max_side": inputs.max_side}
    asked = asdict(built_settings("inputs", Inputs, config.inputs))
    if any(asked[name] != value for name, value in trained.items()):
        values = asdict(dataclasses.replace(config, inputs={**config.inputs, **trained}))
        write_atomic(folder / CONFIG_NAME, (json.dumps(values, indent=2) + "\n").encode())


def export_judge(trained: Path, source: str | Path, out: Path, *, dtype: str) -> Path:
    """Export a trained judge to a single folder, with an adapter merged into the weights.

    Args:
        trained: folder written by `save_judge`.
        source: checkpoint that an adapter belongs to.
        out: folder that does not exist yet; it appears when it is complete.
        dtype: data type of the weights, ``"bfloat16"`` or ``"float32"``.

    Raises:
        ConfigError: if ``out`` exists.
        CheckpointError: if ``trained`` contains no trained judge or an incomplete one, or the adapter's checkpoint is
            missing.
    """
    if out.exists():
        raise ConfigError(f"{out} already exists and is not overwritten: choose another folder")
    if not (trained / "config.json").is_file() and not (trained / ADAPTER_CONFIG).is_file():
        raise CheckpointError(f"expected a trained judge in {trained}, got neither config.json nor {ADAPTER_CONFIG}")
    with teaching_disk_errors(f"{out} cannot be written"):
        out.parent.mkdir(parents=True, exist_ok=True)
        with held_folder(out) as folder:
            if (trained / ADAPTER_CONFIG).is_file():
                merged = load_adapter(load_model(source, dtype), trained).merge_and_unload()
                copy_loaded(trained, folder, patterns=(CONFIG_NAME,))
                save_judge(merged, source, folder)
            else:
                save_judge(load_model(trained, dtype), trained, folder)
            folder.replace(out)
    return out


def copy_companions(source: str | Path, folder: Path) -> None:
    """Copy the files next to the weights of a checkpoint, such as the tokenizer; existing files are kept."""
    origin = Path(source)
    if not origin.is_dir():
        from huggingface_hub import snapshot_download

        origin = Path(snapshot_download(str(source), allow_patterns=list(_COMPANIONS)))
    copy_loaded(origin, folder, patterns=_COMPANIONS, without=_OF_WEIGHTS)
