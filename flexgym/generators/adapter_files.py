"""Read low-rank adapters from files: those of diffusers, peft and kohya's scripts."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from flexgym.core.errors import CheckpointError
from flexgym.core.json_text import parse_json
from flexgym.core.logs import heard_warnings
from flexgym.core.pretrained import ADAPTER_CONFIG, ADAPTER_FILE
from flexgym.core.weight_files import check_weight_file
from flexgym.generators.adapters import Adapter, adaptable_layers

WEIGHTS = "pytorch_lora_weights.safetensors"
"""File of an adapter that a diffusers pipeline saved."""
_METADATA = "lora_adapter_metadata"
_HUB_ID = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?P<file>/[\w./-]+\.safetensors)?")
_PARTS = {
    **dict.fromkeys((".lora_A.weight", ".lora_down.weight", ".lora.down.weight"), "down"),
    **dict.fromkeys((".lora_B.weight", ".lora_up.weight", ".lora.up.weight"), "up"),
    ".alpha": "alpha",
}
_IS_PART = re.compile(r"\.lora_[AB]\.weight$|[._]lora\w*[._](down|up)\.weight$|\.alpha$")
"""Names of values of a plain LoRA in the files of any library."""
_PREFIXES = ("diffusion_model.", "base_model.model.", "lora_unet_", "lora_transformer_", "")
_PLAIN = {"use_dora": False, "bias": "none", "lora_bias": False, "modules_to_save": None, "fan_in_fan_out": False}
"""Settings of peft under which an adapter is a plain LoRA."""
_CONVERTERS = ("diffusers.loaders.lora_pipeline", "diffusers.loaders.lora_conversion_utils")
"""Loggers that warn about keys which diffusers' converters drop."""
_FAILURES = (ValueError, LookupError, RuntimeError, AttributeError, TypeError, AssertionError)
_SHOWN = 3


@dataclass
class _File:
    """Content of one file.

    Attributes:
        path: the file.
        tensors: by the names in the file.
        scales: settings of peft that determine ranks and scales; None where the file has none.
    """

    path: Path
    tensors: dict[str, Tensor]
    scales: dict[str, Any] | None


@dataclass
class _Parsed:
    """Values by layer, and the names that belong to no layer of the module."""

    down: dict[str, Tensor] = field(default_factory=dict)
    up: dict[str, Tensor] = field(default_factory=dict)
    alpha: dict[str, Tensor] = field(default_factory=dict)
    unknown: dict[str, Tensor] = field(default_factory=dict)


def read_adapters(source: str | Path, pipe: Any, modules: Mapping[str, nn.Module]) -> dict[str, Adapter]:
    """Read the adapter of each module that trains.

    Only safetensors files are read. The adapter of a second transformer lies in a subfolder named after it, as
    `FlowGenerator.save` writes it, or in the same file below its name.

    Args:
        source: a folder, a file, or a hub id that may be followed by a file in it: ``owner/name/file.safetensors``.
        pipe: the pipeline; its class converts the keys of other libraries.
        modules: the modules by their names in the pipeline, the first one first.

    Returns:
        An adapter for each module.

    Raises:
        CheckpointError: there is no adapter, or one that is incomplete, no plain LoRA, or of another model; the message
            names the tensors.
    """
    place = _locate(str(source), list(modules)[1:])
    first = _read(_file_in(place))
    found = {}
    for number, (name, module) in enumerate(modules.items()):
        own = first
        if number and (place / name).is_dir():
            own = _read(_file_in(place / name))
        elif len(modules) > 1:
            own = _below(first, name, others=[other for other in modules if other != name])
        if not own.tensors:
            raise CheckpointError(
                f"{source} holds no adapter of {name}: each of {', '.join(modules)} trains, so put its adapter into"
                f" {place / name}"
            )
        found[name] = _adapter(own, type(pipe), module)
    return found


def _locate(source: str, further: list[str]) -> Path:
    place = Path(source).expanduser()
    hub = _HUB_ID.fullmatch(source)
    if place.exists() or hub is None:
        return place
    from huggingface_hub import snapshot_download

    wanted = [WEIGHTS, ADAPTER_FILE, ADAPTER_CONFIG]
    file = hub["file"]
    patterns = [file[1:]] if file else [*wanted, *(f"{name}/{each}" for name in further for each in wanted)]
    try:
        folder = Path(snapshot_download(hub["repository"], allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"adapter: {source!r} is no folder or file here, and as a hub id it could not be fetched"
            f" ({type(error).__name__}: {error})"
        ) from error
    if not file and not any((folder / each).is_file() for each in wanted[:2]):
        raise CheckpointError(
            f"adapter: {source} on the hub has neither {WEIGHTS} nor {ADAPTER_FILE}: name its file, as in"
            f" {source}/FILE.safetensors"
        )
    return folder / file[1:] if file else folder


def _file_in(place: Path) -> Path:
    """Return the file of an adapter in a folder; a file is returned as it is."""
    if place.is_file():
        return place
    if not place.is_dir():
        raise CheckpointError(f"adapter: expected a folder, a safetensors file or a hub id, got {str(place)!r}")
    for name in (WEIGHTS, ADAPTER_FILE):
        if (place / name).is_file():
            return place / name
    files = sorted(place.glob("*.safetensors"))
    if len(files) == 1:
        return files[0]
    there = sorted(path.name for path in place.iterdir() if path.is_file())
    raise CheckpointError(
        f"expected an adapter in {place} ({WEIGHTS}, {ADAPTER_FILE} or a single safetensors file), found"
        f" {', '.join(there) or 'no file'}: name the file, or convert it to safetensors"
    )


def _read(path: Path) -> _File:
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: expected a .safetensors file; other formats may run code when they are read")
    check_weight_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            metadata = file.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is no safetensors file: {error}") from error
    beside = path.with_name(ADAPTER_CONFIG)
    scales = None
    if path.name == ADAPTER_FILE and beside.is_file():
        scales = _json(beside.read_text(encoding="utf-8"), beside)
    elif _METADATA in metadata:
        scales = _json(metadata[_METADATA], path)
    return _File(path, tensors, scales)


def _json(text: str, path: Path) -> dict[str, Any]:
    try:
        found = parse_json(text)
    except ValueError as error:
        raise CheckpointError(f"{path}: its settings of the adapter are no valid JSON ({error})") from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: expected the settings of an adapter, got {type(found).__name__}")
    return found


def _below(file: _File, name: str, *, others: list[str]) -> _File:
    """Return what a file of several modules holds of one; what names no module belongs to the first one."""

    def own(named: Mapping[str, Any]) -> dict[str, Any]:
        elsewhere = tuple(f"{each}." for each in others)
        kept = {
            key: value
            for key, value in named.items()
            if key.startswith(f"{name}.") or name == "transformer" and not key.startswith(elsewhere)
        }
        return {key.removeprefix(f"{name}."): value for key, value in kept.items()}

    return _File(file.path, own(file.tensors), None if file.scales is None else own(file.scales))


# --- keys ------------------------------------------------------------------------------------------------------------


def _adapter(file: _File, pipeline: type, module: nn.Module) -> Adapter:
    """Return the adapter that a file holds, by the names of the module's layers."""
    layers = adaptable_layers(module)
    parsed = _parse(file.tensors, layers)
    # Other values, such as magnitudes of DoRA, never get to diffusers, whose converters drop some.
    others = {name: value for name, value in parsed.unknown.items() if not _IS_PART.search(name)}
    if parsed.unknown and not others and hasattr(pipeline, "lora_state_dict"):
        parsed = _parse(_converted(file, pipeline), layers)
    if parsed.unknown or not parsed.down:
        unknown = others or parsed.unknown
        raise CheckpointError(
            f"{file.path} does not fit a {type(module).__name__}: {len(unknown)} of {len(file.tensors)} tensors"
            f" are no lora_A, lora_B or alpha of its layers, such as {_shown(unknown)}. An adapter here is a"
            " plain LoRA of the transformer alone; merge others into the pipeline with diffusers, and save that"
        )
    _check_pairs(parsed, layers, file.path)
    ranks = {layer: len(down) for layer, down in parsed.down.items()}
    alpha = {layer: _number(parsed.alpha[layer], layer) for layer in parsed.alpha}
    return Adapter(parsed.down, parsed.up, {**_scales(file, ranks), **alpha})


def _parse(tensors: Mapping[str, Tensor], layers: Mapping[str, nn.Module]) -> _Parsed:
    """Sort tensors by layer; names may have dots or, as kohya's, underscores between their parts."""
    known = {name: name for name in layers} | {name.replace(".", "_"): name for name in layers}
    parsed = _Parsed()
    for key, value in tensors.items():
        ending = next((each for each in _PARTS if key.endswith(each)), None)
        layer = ending and _layer(key.removesuffix(ending).removeprefix("transformer."), known)
        kept = getattr(parsed, _PARTS[ending]) if ending and layer else parsed.unknown
        kept[layer or key] = value
    return parsed


def _layer(name: str, known: Mapping[str, str]) -> str | None:
    bare = (name.removeprefix(prefix) for prefix in _PREFIXES if name.startswith(prefix))
    return next((known[each] for each in bare if each in known), None)


def _converted(file: _File, pipeline: Any) -> dict[str, Tensor]:
    """Convert keys of other libraries by diffusers; what it would only warn about is an error."""
    try:
        with heard_warnings(_CONVERTERS, _raise_warning):
            converted: Any = pipeline.lora_state_dict(dict(file.tensors))
    except _FAILURES as error:
        raise CheckpointError(
            f"{file.path}: {pipeline.__name__} cannot convert these keys, such as {_shown(file.tensors)}"
            f" ({type(error).__name__}: {str(error)[:300]})"
        ) from error
    tensors = converted[0] if isinstance(converted, tuple) else converted
    before, after = (sum(_PARTS.get(_ending_of(key)) == "down" for key in each) for each in (file.tensors, tensors))
    if after < before:
        raise CheckpointError(f"{file.path}: diffusers drops {before - after} of its {before} layers")
    return dict(tensors)


def _ending_of(key: str) -> str:
    return next((each for each in _PARTS if key.endswith(each)), "")


def _raise_warning(record: logging.LogRecord) -> NoReturn:
    raise ValueError(record.getMessage())


# --- values ----------------------------------------------------------------------------------------------------------


def _check_pairs(parsed: _Parsed, layers: Mapping[str, Any], path: Path) -> None:
    """Reject a layer without one of its two parts, with other shapes, or with values that are not finite."""
    for layer in sorted({*parsed.down, *parsed.up, *parsed.alpha}):
        if layer not in parsed.down or layer not in parsed.up:
            part = "lora_A" if layer not in parsed.down else "lora_B"
            raise CheckpointError(f"{path} is incomplete: {layer} has no {part}")
        down, up, weight = parsed.down[layer], parsed.up[layer], layers[layer].weight
        sides = (1,) * (weight.ndim - 2)
        expected = (len(down), *weight.shape[1:]), (len(weight), len(down), *sides)
        if (tuple(down.shape), tuple(up.shape)) != expected:
            raise CheckpointError(
                f"{path} does not fit: expected {layer} with lora_A {expected[0]} and lora_B {expected[1]}, got"
                f" {tuple(down.shape)} and {tuple(up.shape)}"
            )
        if not (torch.isfinite(down.float()).all() and torch.isfinite(up.float()).all()):
            raise CheckpointError(f"{path}: {layer} has values that are NaN or infinite")


def _scales(file: _File, ranks: Mapping[str, int]) -> dict[str, float]:
    """Return alpha by layer, from settings of peft; without any it is the rank."""
    if file.scales is None:
        return {layer: float(rank) for layer, rank in ranks.items()}
    # diffusers puts the name of the module before each setting
    own = {name.removeprefix("transformer."): value for name, value in file.scales.items()}
    for name, plain in _PLAIN.items():
        if own.get(name, plain) != plain:
            raise CheckpointError(f"{file.path}: expected a plain LoRA, with {name}={plain}, got {own[name]}")
    found = {}
    for layer, rank in ranks.items():
        declared = _by_pattern(own, "rank_pattern", layer, default=own.get("r", rank))
        if declared != rank:
            raise CheckpointError(f"{file.path}: {layer} has rank {rank}, and its settings say {declared}")
        alpha = _number(_by_pattern(own, "alpha_pattern", layer, default=own.get("lora_alpha", rank)), layer)
        found[layer] = alpha * math.sqrt(rank) if own.get("use_rslora") else alpha
    return found


def _by_pattern(settings: Mapping[str, Any], name: str, layer: str, *, default: Any) -> Any:
    """Return the value of the first pattern that is a layer's name or the end of it."""
    patterns = settings.get(name) or {}
    if not isinstance(patterns, dict):
        raise CheckpointError(f"expected {name} of the adapter to map layers to numbers, got {patterns!r}")
    for pattern, value in patterns.items():
        bare = pattern.removeprefix("^").replace("\\", "")
        if layer == bare or not pattern.startswith("^") and layer.endswith(f".{bare}"):
            return value
    return default


def _number(value: Any, layer: str) -> float:
    """Return a scale as a number; whole numbers stay whole."""
    found = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise CheckpointError(f"expected a finite number as alpha of {layer}, got {value!r}")
    return found


def _shown(names: Mapping[str, Any]) -> str:
    return ", ".join(sorted(names)[:_SHOWN]) or "none at all"
