"""Defaults of a generator that are known before it is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flexgym.core.errors import FlexGymError
from flexgym.generators.folder import MODEL_INDEX, read_json
from flexgym.generators.generic import family_of
from flexgym.generators.loader import CHECKPOINTS, DEFAULTS, EMBEDDED
from flexgym.generators.pipelines import pipeline_class
from flexgym.generators.sampling import argument_defaults, call_defaults, read_generation_config


def default_num_steps(source: str | Path | None, modality: str = "image") -> int | None:
    """Return the denoising steps that a generator takes when no setting says how many; no weights are read.

    Args:
        source: as for `flexgym.generators.load_generator`.
        modality: ``"image"`` or ``"video"``, which chooses the embedded generator where there is no source.

    Returns:
        The number; None where it is known only after a download or after loading.
    """
    try:
        folder = _local_folder(str(DEFAULTS[modality] if source is None else source))
        steps = read_generation_config(folder).get("num_steps")
        return _whole(steps) or _whole(_called_with(read_json(folder / MODEL_INDEX)).get("num_steps"))
    except (FlexGymError, OSError):
        return None  # loading the generator says what is wrong


def is_distilled(source: str | Path | None) -> bool:
    """Return whether the files of a generator say that its steps were distilled; no weights are read.

    Args:
        source: as for `flexgym.generators.load_generator`; False where it is on the hub and was never downloaded.
    """
    if source is None:
        return False
    try:
        return bool(read_json(_local_folder(str(source)) / MODEL_INDEX).get("is_distilled", False))
    except (FlexGymError, OSError):
        return False  # loading the generator says what is wrong


def _local_folder(source: str) -> Path:
    """Return the folder of a source; of a hub id what an earlier download left."""
    if source in EMBEDDED:
        return CHECKPOINTS / EMBEDDED[source]
    folder = Path(source).expanduser()
    if folder.exists():
        return folder
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(source, MODEL_INDEX)
    except HFValidationError:  # no hub id
        return folder
    return Path(cached).parent if isinstance(cached, str) else folder


def _called_with(index: dict[str, Any]) -> dict[str, Any]:
    """Return the sampling settings that the pipeline's ``__call__`` has by default."""
    name = str(index.get("_class_name"))
    pipeline = pipeline_class(name)
    return call_defaults(argument_defaults(pipeline.__call__), family_of(name).call_names) if pipeline else {}


def _whole(steps: Any) -> int | None:
    return steps if isinstance(steps, int) and not isinstance(steps, bool) and steps > 0 else None
