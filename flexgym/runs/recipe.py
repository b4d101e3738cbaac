"""The settings that a run was last started with."""

from __future__ import annotations

from pathlib import Path

from flexgym.config.recipe import Recipe, load_recipe
from flexgym.runs.checkpoints import run_of
from flexgym.runs.folder import newest_config
from flexgym.runs.storage import local_run, url_of


def saved_recipe(run: str | Path) -> Recipe:
    """Return the settings that a run was last started or resumed with, overrides included.

    Args:
        run: a run folder, or one checkpoint in it; a path or a URL.

    Raises:
        CheckpointError: when there is no checkpoint to resume from.
    """
    with local_run(run, checkpoint=False) as found:
        return load_recipe(newest_config(found if url_of(run) else run_of(found)))
