"""Saving what trained in the format of diffusers, so that the stock pipeline loads it."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flexgym.core.errors import CheckpointError
from flexgym.core.files import copy_loaded, held_folder, teaching_disk_errors
from flexgym.generators.adapters import ADAPTER, Adapter, adapter_in, combined, config_of
from flexgym.generators.folder import MODEL_INDEX, read_json

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


def write_folder(target: Path, write: Callable[[Path], None]) -> Path:
    """Write a folder that appears only once it is complete.

    Args:
        target: the folder, which does not exist yet.
        write: writes into the hidden folder that is then renamed.

    Returns:
        The folder.

    Raises:
        CheckpointError: the folder exists.
    """
    if target.exists():
        raise CheckpointError(f"{target} exists already, and nothing saved is overwritten: choose another folder")
    with teaching_disk_errors(f"{target} cannot be written"):
        target.parent.mkdir(parents=True, exist_ok=True)
        with held_folder(target) as partial:
            write(partial)
            os.replace(partial, target)
    return target


def save_adapter(pipe: DiffusionPipeline, module: Any, folder: Path, *, below: Sequence[Adapter] = ()) -> None:
    """Write the adapter of one module.

    Args:
        pipe: the pipeline of the module.
        module: the module with an adapter.
        folder: where to.
        below: adapters that were merged into the module; the one that is written contains them, so that the stock
            pipeline with it is the policy.
    """
    from diffusers.loaders.lora_pipeline import HunyuanVideoLoraLoaderMixin
    from peft import get_peft_model_state_dict

    tensors, config = get_peft_model_state_dict(module), module.peft_config[ADAPTER]
    if below:
        together = combined([*below, adapter_in(module)])
        config = config_of(together, module)
        tensors = {name.replace(f".{ADAPTER}.", "."): value for name, value in together.parameters().items()}
    # the same format where a pipeline cannot write it; `transformer.load_lora_adapter` reads it there
    writer = pipe if hasattr(pipe, "save_lora_weights") else HunyuanVideoLoraLoaderMixin
    # without the metadata a reader would take the scale to be 1
    writer.save_lora_weights(
        folder, transformer_lora_layers=tensors, transformer_lora_adapter_metadata=config.to_dict()
    )


def save_pipeline(
    pipe: DiffusionPipeline,
    folder: Path,
    *,
    replaced: Mapping[str, Any],
    released: Sequence[str],
    source: Path | None,
) -> None:
    """Write all components of a pipeline.

    Args:
        pipe: the pipeline.
        folder: where to.
        replaced: modules to write in place of those of the pipeline, by name.
        released: names of components that are no longer in memory; they never train, so they are copied.
        source: the folder that the pipeline was loaded from.

    Raises:
        CheckpointError: components were released, and the pipeline came from no folder.
    """
    written = copy.copy(pipe)
    written.register_modules(**replaced)
    written.save_pretrained(folder, safe_serialization=True)
    if not released:
        return
    if source is None:
        raise CheckpointError(
            "the text encoders were released and came from no folder, so the pipeline cannot be written:"
            " load it with load_generator, or keep the text encoders"
        )
    index, original = read_json(folder / MODEL_INDEX), read_json(source / MODEL_INDEX)
    for name in released:
        copy_loaded(source, folder, within=name)
        index[name] = original[name]
    (folder / MODEL_INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
