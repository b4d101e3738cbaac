"""The settings that a run was last started with."""

from __future__ import annotations

from pathlib import Path

from flexgym.config.recipe import Recipe, load_recipe
from flexgym.runs.checkpoints import run_of
from flexgym.runs.folder import newest_config
from flexgym.runs.paths import with_moved_paths
from flexgym.runs.storage import local_run, url_of


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


def _found_again(recipe: Recipe, folder: Path) -> Recipe:
    """Return a saved recipe with the paths of files that moved together with its run."""
    root = recipe.get("run", {}).get("root")
    if isinstance(root, str) and Path(root).is_absolute():
        recipe.update(with_moved_paths(recipe, before=Path(root), now=folder.resolve().parent))
    return recipe
