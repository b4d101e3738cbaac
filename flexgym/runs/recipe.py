"""The recipe that a run was started with."""

from __future__ import annotations

from pathlib import Path

from flexgym.config.recipe import Recipe, load_recipe
from flexgym.runs.checkpoints import resolve_checkpoint
from flexgym.runs.paths import with_moved_paths


def saved_recipe(run: Path) -> Recipe:
    """Return the recipe that a run was started with.

    Files and folders that moved together with the run are found where they are now, see docs/resuming.md.

    Args:
        run: a run folder, or one checkpoint in it.

    Raises:
        CheckpointError: when there is no complete checkpoint to resume from.
    """
    folder = resolve_checkpoint(run).resolve().parents[1]
    return _found_again(load_recipe(folder / "config.yaml"), folder)


def _found_again(recipe: Recipe, folder: Path) -> Recipe:
    """Return a saved recipe with the paths of files that moved together with its run."""
    root = recipe.get("run", {}).get("root")
    if isinstance(root, str) and Path(root).is_absolute():
        recipe.update(with_moved_paths(recipe, before=Path(root), now=folder.parent))
    return recipe
