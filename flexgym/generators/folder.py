"""Checks that a checkpoint folder is complete, by names, sizes and headers, before any weight is read."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flexgym.core.errors import CheckpointError
from flexgym.core.json_text import parse_json, read_json_file

MODEL_INDEX = "model_index.json"
_CONFIGS = {
    "Scheduler": "scheduler_config.json",
    "Tokenizer": "tokenizer_config.json",
    "Guidance": "guider_config.json",
}
_PROCESSORS = ("Processor", "FeatureExtractor")
_HINT = "a download or a save was cut short: fetch or write the folder again"


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        CheckpointError: when there is no such file or it holds no object.
    """
    try:
        content = read_json_file(path, nan=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"expected the file {path}, and it is missing; {_HINT}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); {_HINT}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def component_classes(index: Mapping[str, Any]) -> dict[str, str]:
    """Return the class of each component of a pipeline, from its ``model_index.json``."""
    return {
        name: value[1]
        for name, value in index.items()
        if isinstance(value, list) and len(value) == 2 and isinstance(value[1], str)
    }


def check_folder(folder: Path) -> None:
    """Reject a folder that is not a diffusers pipeline, or is incomplete.

    Args:
        folder: of the checkpoint.

    Raises:
        CheckpointError: naming the first file that is missing or cut short.
    """
    if not folder.is_dir():
        raise CheckpointError(f"expected a diffusers pipeline folder, got {str(folder)!r}, which does not exist")
    if not (folder / MODEL_INDEX).is_file():
        raise CheckpointError(
            f"{folder} holds no {MODEL_INDEX}: expected a diffusers pipeline folder (save_pretrained)"
        )
    for name, kind in component_classes(read_json(folder / MODEL_INDEX)).items():
        _check_component(folder / name, kind)


def _check_component(folder: Path, kind: str) -> None:
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder.parent} lists a component {folder.name!r} ({kind}), and its folder is missing; {_HINT}"
        )
    for word, config in _CONFIGS.items():
        if word in kind:
            read_json(folder / config)
            _check_sentencepiece(folder)
            return
    if any(word in kind for word in _PROCESSORS):
        return
    read_json(folder / "config.json")
    _check_weights(folder)


def _check_sentencepiece(folder: Path) -> None:
    """Reject a tokenizer without ``tokenizer.json`` where SentencePiece, which reads its own file, is not installed."""
    models = sorted(path.name for path in folder.glob("*.model"))
    if models and not (folder / "tokenizer.json").is_file() and find_spec("sentencepiece") is None:
        raise CheckpointError(
            f"expected tokenizer.json in {folder}, found only {models[0]}, which needs SentencePiece, and that is not"
            " installed: pip install 'flexgym[sentencepiece]'"
        )


def _check_weights(folder: Path) -> None:
    indices = sorted(folder.glob("*.safetensors.index.json"))
    if indices:
        shards = sorted(set(read_json(indices[0]).get("weight_map", {}).values()))
        files = [folder / shard for shard in shards]
    else:
        files = sorted(folder.glob("*.safetensors"))
    if not files:
        others = sorted(path.name for pattern in ("*.bin", "*.ckpt", "*.pt") for path in folder.glob(pattern))
        found = f"found only {', '.join(others)}, which may run code when it is read: convert it" if others else _HINT
        raise CheckpointError(f"expected weights in safetensors format in {folder}; {found}")
    for path in files:
        _check_safetensors(path)


def _check_safetensors(path: Path) -> None:
    """Compare the size of a file with what its header promises: 8 bytes of length, the header, then the tensors."""
    if not path.is_file():
        raise CheckpointError(
            f"expected the weights {path}, listed in the index beside it, and they are missing; {_HINT}"
        )
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if 8 + length > size:
            raise CheckpointError(f"{path} ends within its header ({size} bytes); {_HINT}")
        try:
            header = parse_json(file.read(length))
        except ValueError as error:
            raise CheckpointError(
                f"{path} is no safetensors file: its header cannot be read ({error}); {_HINT}"
            ) from error
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    if 8 + length + max(ends, default=0) != size:
        raise CheckpointError(f"{path} should have {8 + length + max(ends, default=0)} bytes, got {size}; {_HINT}")
