"""The command line of the agents on RLlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flexgym.algorithm.base import algorithm_class
from flexgym.config import AgentSettings
from flexgym.rllib.build import algorithm_config
from flexgym.rllib.config import Components
from flexgym.rllib.trainable import AgentTrainable
from flexgym.runs.loop import TrainingRun


def make_agent_run(
    settings: AgentSettings, components: Components, *, resume: Path | None = None, command: Sequence[str] = ()
) -> TrainingRun:
    """Make a run of an agent.

    Args:
        settings: of the run.
        components: makes rewards, prompts and environments.
        resume: run folder or checkpoint to continue from; None starts a new run.
        command: words that start the program, for the message that says how to resume.
    """
    algorithm = algorithm_class(settings.algorithm.name)(settings.algorithm)
    config = algorithm_config(settings, algorithm, components)
    return TrainingRun(AgentTrainable(config), settings.run, resume=resume, command=command)
