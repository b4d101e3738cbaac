"""The settings that a run was last started with, and the run that a recipe names."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from flexgym.config import RunSettings
from flexgym.config.recipe import Recipe, load_recipe
from flexgym.core.urls import url_of
from flexgym.runs.checkpoints import latest_checkpoint, run_of
from flexgym.runs.folder import newest_config, numbered_names
from flexgym.runs.paths import with_moved_paths
from flexgym.runs.storage import RemoteRun, local_run


def saved_recipe(run: str | Path) -> Recipe:
    """Return the settings that a run was last started or resumed with, overrides included.

    Files and folders that moved together with the run are found where they are now, see docs/resuming.md.

    Args:
        run: a run folder, or one checkpoint in it; a path or a URL.

    Raises:
        CheckpointError: when there is no checkpoint to resume from.
    """
    with local_run(run, checkpoint=False) as found:
        folder = found if url_of(run) else run_of(found)
        return _found_again(load_recipe(newest_config(folder)), folder)


def run_named_by(recipe: Recipe) -> Path | None:
    """Return the newest run that a recipe has started and that can be resumed, or None if there is none.

    A name that was taken got a number, so ``name``, ``name-2`` and so on are looked at, and the last of them that has a
    complete checkpoint is returned.

    Args:
        recipe: names the run by ``run.root`` and ``run.name``.

    Returns:
        The run folder, or its URL as a path.

    Raises:
        CheckpointError: the store of a URL cannot be reached.
    """
    section = recipe.get("run") or {}
    names = RunSettings.model_fields
    root, name = (str(section.get(key, names[key].default)) for key in ("root", "name"))
    found = _runs_at_url(url, name) if (url := url_of(root)) else _runs_in_folder(Path(root), name)
    return next(reversed(list(found)), None)


def _runs_in_folder(root: Path, name: str) -> Iterator[Path]:
    for path in itertools.takewhile(Path.exists, (root / each for each in numbered_names(name))):
        if latest_checkpoint(path):
            yield path


def _runs_at_url(url: str, name: str) -> Iterator[Path]:
    remotes = (RemoteRun(f"{url}/{each}") for each in numbered_names(name))
    for remote in itertools.takewhile(RemoteRun.exists, remotes):
        if remote.checkpoints():
            yield Path(remote.url)


def _found_again(recipe: Recipe, folder: Path) -> Recipe:
    """Return a saved recipe with the paths of files that moved together with its run."""
    root = recipe.get("run", {}).get("root")
    if isinstance(root, str) and Path(root).is_absolute():
        recipe.update(with_moved_paths(recipe, before=Path(root), now=folder.resolve().parent))
    return recipe
