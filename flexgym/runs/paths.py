"""Paths in the settings of a run: absolute where a run is saved, and found again after a move."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

_NAMED = frozenset(
    {"adapter", "failed_samples", "files", "first_frame", "generator", "judge", "model", "processor", "prompt_template"}
    | {"prompts", "root", "source"}
)
"""Settings in which a single word may be a file or folder; elsewhere a path has a separator or an ending."""
_MADE = frozenset({"latent_cache", "text_cache"})
"""Settings whose folder is made when it is missing."""
_PATTERNS = "files"
"""Setting of data files, which may be patterns such as ``shards/*.tar``."""
_Change = Callable[[str, str], str]


def with_absolute_paths(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings in which the path of every existing file or folder is absolute, at any depth.

    Args:
        values: plain values by section; relative paths are those of the working folder.
    """
    return {name: _changed(value, name, _absolute) for name, value in values.items()}


def with_moved_paths(values: Mapping[str, Any], *, before: Path, now: Path) -> dict[str, Any]:
    """Return settings whose missing files and folders are looked for at the same place relative to the run.

    Args:
        values: plain values by section, as `with_absolute_paths` returns them.
        before: folder of the run folders when the run was saved.
        now: folder that holds the run folder now.
    """

    def moved(path: str, name: str) -> str:
        if not os.path.isabs(path) or os.path.lexists(path):
            return path
        there = os.path.normpath(now / os.path.relpath(path, before))
        return there if os.path.lexists(there) else path

    return {name: _changed(value, name, moved) for name, value in values.items()}


def _changed(value: Any, name: str, change: _Change) -> Any:
    if isinstance(value, str):
        return change(value, name)
    if isinstance(value, Mapping):
        return {key: _changed(inner, str(key), change) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        # prompts in a list are texts; only what belongs to them can be files
        return [each if name == "prompts" and isinstance(each, str) else _changed(each, name, change) for each in value]
    return value


def _absolute(text: str, name: str) -> str:
    path = os.path.expanduser(text)
    if "\0" in path or "://" in path:
        return text
    could_be = name in _NAMED or os.sep in path or "." in path
    is_there = os.path.exists(path) or name == _PATTERNS and bool(glob.glob(path))
    return os.path.abspath(path) if name in _MADE or could_be and text and is_there else text
