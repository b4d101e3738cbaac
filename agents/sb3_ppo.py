"""Stable-Baselines3 on the control environments: PPO by default, any of its algorithms by name.

``python -m agents.sb3_ppo`` learns guidance and noise for the embedded text-to-image model within minutes;
``python -m agents.sb3_ppo training.algorithm=SAC`` takes another algorithm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gymnasium.vector import VectorEnv
from stable_baselines3.common.callbacks import BaseCallback

import flexgym  # noqa: F401  (registers the environments)
import rewards
from flexgym.config.recipe import Recipe
from flexgym.runs.command import run_training_command
from flexgym.runs.loop import TrainingRun
from flexgym.sb3.settings import SB3Settings
from flexgym.sb3.trainable import SB3Trainable
from rewards.registry import vector_wrapper

DEFAULT_RECIPE = "sb3_ppo_shapes_t2i_control.yaml"
PROGRAM = "python -m agents.sb3_ppo"


def make_run(
    recipe: Recipe,
    resume: Path | None = None,
    command: Sequence[str] = (),
    *,
    callbacks: Sequence[BaseCallback] = (),
) -> TrainingRun:
    """Make a run as a recipe describes it, with the rewards of the package `rewards`.

    Args:
        recipe: its sections.
        resume: run folder or checkpoint to continue from; None starts a new run.
        command: words that start the program, for messages.
        callbacks: of Stable-Baselines3; an iteration is a training of its own for them.

    Raises:
        UnknownNameError: for an unknown section, key, algorithm or reward, with the nearest valid one.
        ConfigError: for a value that cannot work.
    """
    settings = SB3Settings.parse(recipe)
    vector_wrapper(settings.reward.name)  # an unknown name is an error before a folder is made
    verifier = rewards.make(settings.verification.reward)
    trainable = SB3Trainable(settings, wrap=_wrap, verifier=verifier, callbacks=callbacks)
    return TrainingRun(trainable, settings.run, resume=resume, command=command)


def _wrap(envs: VectorEnv, name: str, settings: Mapping[str, Any]) -> VectorEnv:
    return vector_wrapper(name)(envs, **settings)


def main() -> None:
    """The command line."""
    summary = "Train an algorithm of Stable-Baselines3 to choose guidance and noise of a frozen generator."
    run_training_command(make_run, default_recipe=DEFAULT_RECIPE, program=PROGRAM, summary=summary)


if __name__ == "__main__":
    main()
