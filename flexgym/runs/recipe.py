"""The recipe that a run was started with."""

from __future__ import annotations

from pathlib import Path

from flexgym.config.recipe import Recipe, load_recipe
from flexgym.runs.checkpoints import resolve_checkpoint


def saved_recipe(run: Path) -> Recipe:
    """Return the recipe that a run was started with.

    Args:
        run: a run folder, or one checkpoint in it.

    Raises:
        CheckpointError: when there is no complete checkpoint to resume from.
    """
    return load_recipe(resolve_checkpoint(run).resolve().parents[1] / "config.yaml")
