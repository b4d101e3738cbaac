"""Modules and classes that a recipe names by their path."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from flexgym.core.errors import ConfigError


def import_named(name: str) -> ModuleType:
    """Import a module that a recipe names, unless it lies in a run folder.

    A run folder may come from somebody else, and its config with it: one that lies below the working folder could name
    a file of its own, such as ``runs.theirs.payload``, and would run it.

    Args:
        name: dotted name.

    Raises:
        ConfigError: it, or a package around it, lies in a run folder.
        ImportError: there is no such module, or it cannot be imported.
    """
    parts = name.split(".")
    for end in range(1, len(parts) + 1):
        prefix = ".".join(parts[:end])
        if prefix in sys.modules:
            continue
        spec = importlib.util.find_spec(prefix)
        if spec is None:
            break
        _check_place(name, spec)
        importlib.import_module(prefix)
    return importlib.import_module(name)


def _check_place(name: str, spec: ModuleSpec) -> None:
    places = [Path(place) for place in (spec.origin, *(spec.submodule_search_locations or ())) if place]
    for place in places:
        for folder in (place, *place.resolve().parents):
            if (folder / "checkpoints").is_dir() and (folder / "metrics.jsonl").exists():
                raise ConfigError(
                    f"module {name!r}: it lies in the run folder {folder}, and code in run folders is never run: move"
                    " it elsewhere"
                )
