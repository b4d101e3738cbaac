"""Algorithms of RLlib as a run trains them."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import ray
from ray.exceptions import RayError
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from torch import Tensor

from flexgym.algorithm.base import EMA
from flexgym.algorithm.effects import effect_notes
from flexgym.config.describe import describe
from flexgym.core.metrics import Metric
from flexgym.core.state_files import read_state
from flexgym.core.text import PlainLogger
from flexgym.rllib.algorithm import FlowAlgorithm
from flexgym.rllib.config import FlowConfig
from flexgym.rllib.learner import COMPONENT_COPIES
from flexgym.rllib.losses import reports_losses
from flexgym.rllib.process import quiet_libraries, shared_cores, start_ray
from flexgym.rllib.resources import requests_of, wait_for_resources
from flexgym.rllib.sharded import LEARNER, STATE_FILES
from flexgym.runs.export import GENERATOR
from flexgym.runs.folder import RunFolder
from flexgym.runs.known_metrics import ACCURACY, REWARD
from flexgym.runs.loop import Measured
from flexgym.runs.verification import EVAL_ACCURACY, verified_change

_log = PlainLogger(__name__)

ALGORITHM = "algorithm"
"""Folder of a checkpoint that holds the state of the algorithm and its learners."""


class RLlibTrainable:
    """Base class for trainables that wrap an algorithm of RLlib, see `flexgym.runs.loop.Trainable`.

    Args:
        config: config of the algorithm, which holds the ``settings`` of the run.
        title: name of the run's algorithm, for the display.

    Attributes:
        required: parts of a checkpoint; subclasses add what they write themselves.
        failure: kind of event that broke off a method, after which `close` waits for no process.
    """

    required: Sequence[str] = tuple(f"{ALGORITHM}/{name}" for name in STATE_FILES)

    def __init__(self, config: Any, title: str) -> None:
        self.config = config
        self.title = title
        self.known: dict[str, Metric] = {}
        self._algorithm: Any = None
        self._opened = contextlib.ExitStack()
        self._owns_ray = self._was_built = False
        self.failure: Literal["", "lost", "interrupted"] = ""

    @property
    def algorithm(self) -> Any:
        """The algorithm, which `build` makes."""
        assert self._algorithm is not None, "build() comes first"
        return self._algorithm

    @property
    def iteration(self) -> int:
        """Number of finished iterations."""
        return self.algorithm.iteration

    def describe(self) -> dict[str, Any]:
        """Return the effective settings by section, without those of the run."""
        return {name: values for name, values in describe(self.config.settings).items() if name != "run"}

    def workers(self) -> dict[str, Any]:
        """Return the handles of learners and env runners in processes of their own, by name."""
        if self._algorithm is None:
            return {}
        group, runners = self._algorithm.learner_group, self._algorithm.env_runner_group
        learners = [] if group.is_local else group._workers
        found = {f"learner {rank} of {len(learners)}": worker for rank, worker in enumerate(learners)}
        if runners is not None:
            actors = runners._worker_manager.actors().items()
            found |= {f"env runner {number} of {len(actors)}": actor for number, actor in actors}
        return found

    @reports_losses
    def build(self, folder: RunFolder) -> None:
        """Start Ray, unless it runs already, wait for the resources, and build the algorithm."""
        self._owns_ray = start_ray() or self._owns_ray
        requests = requests_of(self.config)
        wait_for_resources(requests, self.config.settings.resources, returning=self._was_built)
        self._was_built = True
        self._algorithm = self.config.build_algo()
        self._opened.callback(self._algorithm.stop)

    @reports_losses
    def restore(self, checkpoint: Path) -> None:
        """Restore a checkpoint of `save`."""
        self.algorithm.restore_from_path(str(checkpoint / ALGORITHM))

    @reports_losses
    def save(self, folder: Path) -> None:
        """Write the state of the algorithm into a folder."""
        self.algorithm.save_to_path(str(folder / ALGORITHM))

    def close(self) -> None:
        """Stop the algorithm and its workers."""
        failure, self.failure = self.failure, ""
        if not failure:
            self._opened.close()
            return
        for worker in self.workers().values():
            with contextlib.suppress(RayError):
                ray.kill(worker)
        with contextlib.suppress(Exception):  # of processes that do not answer any more
            self._opened.close()
        self._algorithm = None
        if failure == "lost":
            gc.collect()  # handles of actors that hold resources
            if self._owns_ray:
                ray.shutdown()  # this machine's part of Ray may be what was lost


class AgentTrainable(RLlibTrainable):
    """Trains a generator on groups of samples."""

    config: FlowConfig
    algorithm: FlowAlgorithm
    required = (*RLlibTrainable.required, GENERATOR)

    def __init__(self, config: FlowConfig) -> None:
        super().__init__(config, title=type(config.algorithm).__name__)
        verified = config.settings.verification.reward is not None
        rewarded = config.settings.reward is not None
        self.known = {
            **({"reward/mean": REWARD} if rewarded else {}),
            **({EVAL_ACCURACY: ACCURACY} if verified else {}),
        }

    @reports_losses
    def build(self, folder: RunFolder) -> None:
        """Build the algorithm, with half of torch's threads until it is closed; log what has no effect, once."""
        for note in [] if self._was_built else effect_notes(self.config.algorithm, self.config.settings.training):
            _log.warning(note)
        self.config.failed_samples = str(folder.path / "failed_samples")
        self._opened.enter_context(shared_cores())
        quiet_libraries()
        super().build(folder)
        if note := self.algorithm.on_first_learner(lambda learner: learner.solver_note()):
            _log.warning(note)

    @reports_losses
    def measure(self, *, final: bool) -> Measured:
        """Verify held-out samples, where the config names a verifier."""
        return Measured(verification=self.algorithm.verify() if self.config.settings.verification.reward else None)

    @reports_losses
    def step(self) -> Measured:
        """Train for one iteration."""
        self.algorithm.train()
        last = self.algorithm
        return Measured(last.row, last.last_verification, last.last_judged, recorded=last.last_recorded)

    @reports_losses
    def save(self, folder: Path) -> None:
        """Write the state of the algorithm, and the generator in the format of diffusers."""
        super().save(folder)
        self.algorithm.save_generator(folder / GENERATOR)

    def summary(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Compare held-out prompts before and after training."""
        return verified_change(rows, "Held-out accuracy: {first} before, {last} after (iteration {iteration}).")


def verified_weights(checkpoint: Path, *, averaged: bool) -> dict[str, Tensor]:
    """Read the trainable parameters that an agent verified at a checkpoint, by name.

    Args:
        checkpoint: a complete checkpoint of an `AgentTrainable`.
        averaged: whether the run keeps an EMA of them, which is then what it verified.

    Raises:
        CheckpointError: they cannot be read.
    """
    state = read_state(checkpoint / ALGORITHM / LEARNER)
    found: dict[str, Tensor] = (
        state[COMPONENT_COPIES][EMA] if averaged else state[COMPONENT_RL_MODULE][DEFAULT_MODULE_ID]
    )
    return found
