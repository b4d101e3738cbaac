"""Pipeline classes of diffusers by their name."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager
from typing import Any

from flexgym.core.logs import filtered_logs

_NOTE = "requires torchvision (not installed); falling back"


def pipeline_class(name: str) -> Any:
    """Return a pipeline class of diffusers, importing it; None where there is none of that name."""
    import diffusers

    with without_torchvision_notes():
        return getattr(diffusers, name, None)


def without_torchvision_notes() -> AbstractContextManager[None]:
    """Hide, inside this context, notes of transformers about image processors that use Pillow instead of torchvision.

    Modules of diffusers import them for pipelines and adapters that take images, so the notes come with every pipeline.
    Nothing else that transformers logs is hidden.
    """
    return filtered_logs(["transformers.utils.import_utils"], _is_no_note)


def _is_no_note(record: logging.LogRecord) -> bool:
    return _NOTE not in record.getMessage()
