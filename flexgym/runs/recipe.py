"""The settings that a run was last started with."""

from __future__ import annotations

from pathlib import Path

from flexgym.config.recipe import Recipe, load_recipe
from flexgym.runs.checkpoints import run_of
from flexgym.runs.folder import newest_config


def saved_recipe(run: Path) -> Recipe:
    """Return the settings that a run was last started or resumed with, overrides included.

    Args:
        run: a run folder, or one checkpoint in it.

    Raises:
        CheckpointError: when there is no checkpoint to resume from.
    """
    return load_recipe(newest_config(run_of(run)))
