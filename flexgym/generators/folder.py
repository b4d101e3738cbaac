"""Check that a pipeline folder is complete, by names, sizes and headers, before any weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from flexgym.core.errors import CheckpointError
from flexgym.core.json_text import read_json_file
from flexgym.core.weight_files import CUT_SHORT, check_weight_files, variants_in

MODEL_INDEX = "model_index.json"
_CONFIGS = {
    "Scheduler": "scheduler_config.json",
    "Tokenizer": "tokenizer_config.json",
    "Guidance": "guider_config.json",
}
_PROCESSORS = ("Processor", "FeatureExtractor")


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file.

    Raises:
        CheckpointError: when there is no such file or it holds no object.
    """
    try:
        content = read_json_file(path, nan=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"expected the file {path}, and it is missing; {CUT_SHORT}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); {CUT_SHORT}") from error
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


def check_folder(folder: Path, variant: str | None = None) -> None:
    """Reject a folder that is not a diffusers pipeline, or is incomplete.

    Args:
        folder: of the checkpoint.
        variant: variant of the weights, which at least one component must have, see `component_variant`.

    Raises:
        CheckpointError: naming the first file that is missing or cut short.
    """
    if not folder.is_dir():
        raise CheckpointError(f"expected a diffusers pipeline folder, got {str(folder)!r}, which does not exist")
    if not (folder / MODEL_INDEX).is_file():
        raise CheckpointError(
            f"{folder} holds no {MODEL_INDEX}: expected a diffusers pipeline folder (save_pretrained)"
        )
    classes = component_classes(read_json(folder / MODEL_INDEX))
    for name, kind in classes.items():
        _check_component(folder / name, kind, variant=variant)
    found = set().union(*(variants_in(folder / name) for name in classes)) - {None}
    if variant is not None and variant not in found:
        known = ", ".join(sorted(str(name) for name in found)) or "none"
        raise CheckpointError(f"no component of {folder} has weights of the variant {variant!r}; there: {known}")


def component_variant(folder: Path, variant: str | None) -> str | None:
    """Return the variant of one component: that of the pipeline, or None where only plain weights are there.

    Args:
        folder: folder of the component.
        variant: variant that was asked for.
    """
    there = variants_in(folder)
    return None if variant not in there and None in there else variant


def _check_component(folder: Path, kind: str, *, variant: str | None) -> None:
    if not folder.is_dir():
        raise CheckpointError(
            f"{folder.parent} lists a component {folder.name!r} ({kind}), and its folder is missing; {CUT_SHORT}"
        )
    for word, config in _CONFIGS.items():
        if word in kind:
            read_json(folder / config)
            _check_sentencepiece(folder)
            return
    if any(word in kind for word in _PROCESSORS):
        return
    read_json(folder / "config.json")
    check_weight_files(folder, component_variant(folder, variant))


def _check_sentencepiece(folder: Path) -> None:
    """Reject a tokenizer without ``tokenizer.json`` where SentencePiece, which reads its own file, is not installed."""
    models = sorted(path.name for path in folder.glob("*.model"))
    if models and not (folder / "tokenizer.json").is_file() and find_spec("sentencepiece") is None:
        raise CheckpointError(
            f"expected tokenizer.json in {folder}, found only {models[0]}, which needs SentencePiece, and that is not"
            " installed: pip install 'flexgym[sentencepiece]'"
        )
