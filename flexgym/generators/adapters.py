"""Low-rank adapters: their target layers, the folders they are saved in, and switching them off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from flexgym.core.errors import CheckpointError, ConfigError, unknown_name
from flexgym.core.json_text import parse_json
from flexgym.generators.folder import read_json

ADAPTER = "default"
"""Name of the adapter that trains, among those of peft."""
_ADAPTABLE = (nn.Linear, nn.Conv2d, nn.Conv3d)
_PIPELINE_FILE = "pytorch_lora_weights.safetensors"
_PEFT_FILE, _PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
_METADATA = "lora_adapter_metadata"
_SCALE = ("r", "lora_alpha")


def check_targets(model: nn.Module, targets: Sequence[str]) -> None:
    """Reject adapter targets that match no layer.

    Args:
        model: the model to adapt.
        targets: ends of the names of layers.

    Raises:
        UnknownNameError: for the first target without a layer; the message lists the layers that exist.
        ConfigError: without any target.
    """
    if not targets:
        raise ConfigError("an adapter needs at least one target, such as 'to_q'")
    names = [name for name, module in model.named_modules() if isinstance(module, _ADAPTABLE)]
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise unknown_name("adapter target", target, {_ending(name) for name in names})


def _ending(name: str) -> str:
    """Return the last part of a layer's name, with the one before it when it is a number: ``to_out.0``."""
    parts = name.split(".")
    return ".".join(parts[-2:]) if parts[-1].isdigit() else parts[-1]


def switch_adapter(model: Any, *, on: bool) -> None:
    """Switch the adapter of a model on or off; switched off, its parameters count as frozen.

    Args:
        model: of diffusers with an adapter added, or of peft.
        on: switch it on.
    """
    if hasattr(model, "base_model") and hasattr(model.base_model, "disable_adapter_layers"):
        (model.base_model.enable_adapter_layers if on else model.base_model.disable_adapter_layers)()
    else:
        (model.enable_adapters if on else model.disable_adapters)()


def read_adapter(folder: Path, config: Any) -> dict[str, Tensor]:
    """Read an adapter that a diffusers pipeline or peft saved.

    Args:
        folder: the folder of the adapter.
        config: peft's config of the adapter that it must equal in rank and scale.

    Returns:
        Tensors on the CPU, by the names of the model's parameters.

    Raises:
        CheckpointError: the folder holds no adapter, or one of another rank or scale.
    """
    pipeline, peft = folder / _PIPELINE_FILE, folder / _PEFT_FILE
    if pipeline.is_file():
        tensors, metadata = _read(pipeline)
        saved = _object(metadata.get(_METADATA, "{}"), pipeline)
        # names begin with the part of the pipeline that is adapted
        tensors = {name.partition(".")[2]: tensor for name, tensor in tensors.items()}
        scale = {name.partition(".")[2]: value for name, value in saved.items()}
    elif peft.is_file() and (folder / _PEFT_CONFIG).is_file():
        tensors, _ = _read(peft)
        scale = read_json(folder / _PEFT_CONFIG)
    else:
        raise CheckpointError(f"expected an adapter ({_PIPELINE_FILE} or {_PEFT_FILE}) in {folder}, found neither")
    for name in _SCALE:
        if name in scale and float(scale[name]) != float(getattr(config, name)):
            raise CheckpointError(
                f"the adapter in {folder} does not fit: expected {name} {getattr(config, name)}, got {scale[name]}"
            )
    return {_parameter_name(name): tensor for name, tensor in tensors.items()}


def _object(text: str, path: Path) -> dict[str, Any]:
    """Parse the metadata of an adapter."""
    try:
        values = parse_json(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: the metadata of the adapter cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected an object as metadata of the adapter, got {type(values).__name__}")
    return values


def _read(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is no safetensors file: {error}") from error


def _parameter_name(name: str) -> str:
    """Put the adapter's name back that is left out when it is saved: ``x.lora_A.weight``."""
    before, _, last = name.rpartition(".")
    return f"{before}.{ADAPTER}.{last}"
