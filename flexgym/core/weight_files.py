"""Check safetensors files by names, sizes and headers, before any weight is read."""

from __future__ import annotations

import re
import struct
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flexgym.core.errors import CheckpointError, ConfigError
from flexgym.core.json_text import parse_json

CUT_SHORT = "a download or a save was cut short: fetch or write the folder again"
"""Hint for files that are missing or incomplete."""
_MAX_HEADER = 100_000_000
"""Bytes of a header at most, as in the safetensors library."""
_ENDING = ".safetensors"
_SHARD = re.compile(r"-\d+-of-\d+")
_UNSAFE = ("*.bin", "*.ckpt", "*.pt", "*.pth")
_VARIANT = re.compile(r"\w+")


def check_variant(variant: str | None) -> None:
    """Reject a variant that cannot be part of a file name.

    Raises:
        ConfigError: naming an example.
    """
    if variant is not None and not (isinstance(variant, str) and _VARIANT.fullmatch(variant)):
        raise ConfigError(
            f"variant: expected the word before .safetensors in file names, such as fp16, got {variant!r}"
        )


def variants_in(folder: Path) -> set[str | None]:
    """Return the variants of the weights in a folder: ``"fp16"`` for ``model.fp16.safetensors``, None for plain ones.

    Args:
        folder: folder of one model.
    """
    return {_variant_of(path.name) for path in folder.glob(f"*{_ENDING}")}


def _variant_of(name: str) -> str | None:
    return _SHARD.sub("", name.removesuffix(_ENDING)).partition(".")[2] or None


def check_weight_files(folder: Path, variant: str | None = None) -> None:
    """Reject a folder whose safetensors files are missing, truncated, or not those of their index.

    Args:
        folder: folder of one model.
        variant: variant of the files, see `variants_in`.

    Raises:
        CheckpointError: naming the first file or tensor that is missing, or the first file that is cut short.
    """
    index = _index(folder, variant)
    listed: dict[str, list[str]] = defaultdict(list)
    if index is not None:
        for tensor, shard in _weight_map(index).items():
            listed[shard].append(tensor)
        files = [folder / shard for shard in sorted(listed)]
    else:
        files = [path for path in sorted(folder.glob(f"*{_ENDING}")) if _variant_of(path.name) == variant]
    if not files:
        raise CheckpointError(_none_found(folder, variant))
    for path in files:
        absent = sorted(set(listed[path.name]) - check_weight_file(path).keys())
        if absent:
            raise CheckpointError(f"{path} lacks the tensor {absent[0]}, which the index beside it lists; {CUT_SHORT}")


def check_weight_file(path: Path) -> Mapping[str, Any]:
    """Compare the size of a safetensors file with its header: 8 bytes of length, the header, then the tensors.

    Args:
        path: the file.

    Returns:
        The header: type, shape and place of each tensor by name.

    Raises:
        CheckpointError: the file is missing, cut short, or no safetensors file.
    """
    if not path.is_file():
        raise CheckpointError(
            f"expected the weights {path}, listed in the index beside it, and they are missing; {CUT_SHORT}"
        )
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if 8 + length > size or length > _MAX_HEADER:
            raise CheckpointError(f"{path} ends within its header ({size} bytes); {CUT_SHORT}")
        header = _parsed(file.read(length), path)
    end = 8 + length + max((entry[1] for entry in _places(header, path).values()), default=0)
    if end != size:
        raise CheckpointError(f"{path} should have {end} bytes, got {size}; {CUT_SHORT}")
    return {name: entry for name, entry in header.items() if name != "__metadata__"}


def _places(header: Mapping[str, Any], path: Path) -> dict[str, tuple[int, int]]:
    """Return the first and last byte of each tensor, from the start of the data."""
    try:
        return {
            name: (int(entry["data_offsets"][0]), int(entry["data_offsets"][1]))
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path} is no safetensors file: its header names no places of tensors") from error


def _index(folder: Path, variant: str | None) -> Path | None:
    ending = f".{variant}.json" if variant else ".json"
    found = sorted(folder.glob(f"*{_ENDING}.index{ending}"))
    return found[0] if found else None


def _weight_map(index: Path) -> dict[str, str]:
    """Read the shard of each tensor; shards lie beside the index."""
    listed = _parsed(index.read_bytes(), index).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise CheckpointError(f"{index} lists no tensors under weight_map; {CUT_SHORT}")
    for tensor, shard in listed.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise CheckpointError(f"{index}: expected the name of a file in its folder for {tensor}, got {shard!r}")
    return listed


def _parsed(content: bytes, path: Path) -> dict[str, Any]:
    try:
        found = parse_json(content)
    except ValueError as error:
        raise CheckpointError(
            f"{path}: expected a JSON object in it, which cannot be read ({error}); {CUT_SHORT}"
        ) from error
    if not isinstance(found, dict):
        raise CheckpointError(f"{path}: expected a JSON object in it, got {type(found).__name__}; {CUT_SHORT}")
    return found


def _none_found(folder: Path, variant: str | None) -> str:
    """Say which weights were expected in a folder, and what is there instead."""
    there = {name for name in variants_in(folder) if name is not None}
    if variant is not None:
        known = ", ".join(sorted(there)) or "no variant"
        return f"expected weights of the variant {variant!r} (*.{variant}.safetensors) in {folder}; it holds {known}"
    others = sorted(path.name for pattern in _UNSAFE for path in folder.glob(pattern))
    if there:
        hint = f"found only the variant {sorted(there)[0]}: set variant={sorted(there)[0]}"
    elif others:
        hint = f"found only {', '.join(others)}, which may run code when it is read: convert it"
    else:
        hint = CUT_SHORT
    return f"expected weights in safetensors format in {folder}; {hint}"
