"""Load the models of scorers with transformers: only safetensors, only complete checkpoints, with errors that teach."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers.utils import logging

from flexgym.core import pretrained
from flexgym.core.errors import CheckpointError, ConfigError
from flexgym.core.terminal import without_progress_bars
from flexgym.judge.backends.local import check_source

Dtype = Literal["float32", "bfloat16", "float16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_HINT = (
    "Without network access, give the path of a checkpoint folder instead of a hub id; `python -m"
    " flexgym.rewards.convert` converts published weights in other formats into such a folder"
)


def load_model(kind: Any, source: str | Path, *, device: str | None, dtype: Dtype = "float32") -> Any:
    """Load a model for scoring.

    Args:
        kind: model class of transformers, or one derived from it.
        source: a folder or a hub id.
        device: device of the model; by default the first GPU if there is one.
        dtype: data type of the weights, a name in `DTYPES`.

    Raises:
        CheckpointError: if the checkpoint is missing, incomplete, or of another kind; the message names the tensors.
    """
    check_source(source)
    with without_progress_bars(logging):
        model = pretrained.load_pretrained(kind, source, hint=_HINT, dtype=DTYPES[dtype], trust_remote_code=False)
    return model.to(chosen_device(device)).eval().requires_grad_(False)


def load_part(kind: Any, source: str | Path, **settings: Any) -> Any:
    """Load a tokenizer or image processor.

    Args:
        kind: class of transformers.
        source: a folder or a hub id.
        **settings: override the settings of the checkpoint.

    Raises:
        CheckpointError: if it is missing or of another kind.
    """
    check_source(source)
    return pretrained.load_part(kind, source, hint=_HINT, **settings)


def load_weights(module: torch.nn.Module, file: str | Path, *, hint: str) -> None:
    """Load the weights of a safetensors file into a module.

    Args:
        module: the module; names and shapes in the file must match it.
        file: the safetensors file.
        hint: how to make such a file, for the error message.

    Raises:
        CheckpointError: if the file is missing, is no safetensors file, or has other names or shapes.
    """
    try:
        weights: Mapping[str, torch.Tensor] = load_file(str(file))
        module.load_state_dict(dict(weights))
    except (OSError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{str(file)!r} could not be loaded: {error}. {hint}") from error


def chosen_device(device: str | None) -> torch.device:
    """Return the named device, or else the first GPU, or else the CPU.

    Raises:
        ConfigError: if there is no such device.
    """
    try:
        return torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise ConfigError(f"device: expected a name such as 'cuda:1' or 'cpu', got {device!r}") from error
