"""Stable-Baselines3 on the control environments: PPO by default, any of its algorithms by name.

``python -m agents.sb3_ppo`` learns guidance and noise for the embedded text-to-image model within minutes;
``python -m agents.sb3_ppo training.algorithm=SAC`` takes another algorithm.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymnasium.vector import VectorEnv

import flexgym  # noqa: F401  (registers the environments)
from flexgym import rewards
from flexgym.config import SB3Settings
from flexgym.config.recipe import Recipe
from flexgym.runs.command import Program, run_program

if TYPE_CHECKING:  # loads torch, for which --help does not wait
    from stable_baselines3.common.callbacks import BaseCallback

    from flexgym.runs.loop import TrainingRun

DEFAULT_RECIPE = "sb3_ppo_shapes_t2i_control.yaml"


def make_run(
    settings: SB3Settings,
    resume: Path | None = None,
    command: Sequence[str] = (),
    *,
    callbacks: Sequence[BaseCallback] = (),
) -> TrainingRun:
    """Make a run with the rewards of the package `rewards`.

    Args:
        settings: the recipe.
        resume: run folder or checkpoint to continue from; None starts a new run.
        command: words that start the program, for messages.
        callbacks: of Stable-Baselines3; an iteration is a training of its own for them.

    Raises:
        UnknownNameError: for an unknown reward, with the nearest valid one.
        ConfigError: for a value that cannot work.
    """
    from flexgym.runs.loop import TrainingRun
    from flexgym.sb3.trainable import SB3Trainable

    verifier = rewards.make(settings.verification.reward)
    trainable = SB3Trainable(settings, wrap=_wrap, verifier=verifier, callbacks=callbacks)
    return TrainingRun(trainable, settings.run, resume=resume, command=command)


def _wrap(envs: VectorEnv, name: str, settings: Mapping[str, Any]) -> VectorEnv:
    return rewards.vector.wrap(envs, name, **settings)


def load_sb3_settings(recipe: Recipe) -> SB3Settings:
    """Validate a recipe of Stable-Baselines3.

    Raises:
        ConfigError: settings that cannot work, each with the place where it was written.
        UnknownNameError: names that do not exist, each with the nearest valid one.
    """
    from flexgym.agents.checks import load_checked

    return load_checked(SB3Settings, recipe)


def main(arguments: Sequence[str] | None = None, *, command: str = "python -m agents.sb3_ppo") -> None:
    """Parse a command line and train.

    Args:
        arguments: words after those of the command; None takes the words of this process.
        command: words that started the program, for messages.
    """
    program = Program(command, DEFAULT_RECIPE, load=load_sb3_settings, make_run=make_run, kind=lambda: SB3Settings)
    summary = "Train an algorithm of Stable-Baselines3 to choose guidance and noise of a frozen generator."
    run_program(program, summary=summary, arguments=arguments)
