"""A model of Stable-Baselines3 as a run trains it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import configure

from flexgym.config import SB3Settings
from flexgym.config.describe import describe
from flexgym.core.text import PlainLogger
from flexgym.generators.schedulers import solver_note
from flexgym.runs.folder import RunFolder
from flexgym.runs.known_metrics import ACCURACY, REWARD
from flexgym.runs.loop import Measured, crosses
from flexgym.runs.verification import EVAL_ACCURACY, verified_change
from flexgym.sb3.checkpoint import STATE_FILES, restore_model, save_model
from flexgym.sb3.environments import Wrap, make_envs, make_held_out
from flexgym.sb3.held_out import Scorer
from flexgym.sb3.iteration import IterationRecorder, begin_episodes, progress_over
from flexgym.sb3.model import make_model

_log = PlainLogger(__name__)


class SB3Trainable:
    """Trains one model, see `flexgym.runs.loop.Trainable`.

    An iteration begins new episodes, and ends between two updates, with the first of them after
    ``training.steps_per_iteration`` further steps.

    Args:
        settings: the recipe.
        wrap: puts the reward on the environments.
        verifier: scores the held-out samples.
        callbacks: of Stable-Baselines3; an iteration is a training of its own for them.

    Attributes:
        required: parts of a checkpoint.
    """

    required: Sequence[str] = STATE_FILES

    def __init__(
        self, settings: SB3Settings, *, wrap: Wrap, verifier: Scorer, callbacks: Sequence[BaseCallback] = ()
    ) -> None:
        self.settings, self._wrap, self._verifier = settings, wrap, verifier
        self.title = settings.training.algorithm
        self.known = {"reward/mean": REWARD, EVAL_ACCURACY: ACCURACY}
        self.iteration = 0
        self._size = settings.training.steps_per_iteration
        self._recorder = IterationRecorder()
        self._callbacks = [self._recorder, *callbacks]
        self._opened = contextlib.ExitStack()

    def describe(self) -> dict[str, Any]:
        """Return the effective settings by section, without those of the run."""
        return {name: values for name, values in describe(self.settings).items() if name != "run"}

    def build(self, folder: RunFolder) -> None:
        """Make the environments and the model."""
        envs = make_envs(self.settings, self._wrap)
        self._opened.callback(envs.close)
        if note := solver_note(envs.get_attr("generator")[0].pipe.scheduler):
            _log.warning(note)
        self.model = make_model(self.settings, envs)
        self.model.set_logger(configure(None, []))
        self.held_out = make_held_out(self.settings, envs, self._verifier)

    def restore(self, checkpoint: Path) -> None:
        """Restore a checkpoint of `save`."""
        restore_model(self.model, checkpoint)
        self.iteration = self.model.num_timesteps // self._size

    def measure(self, *, final: bool) -> Measured:
        """Verify held-out samples: before training with the pipeline's own settings, then as the policy decides."""
        if final:
            return Measured(verification=self.held_out.verify(self._decide))
        return Measured({"steps": 0}, self.held_out.verify_default())

    def step(self) -> Measured:
        """Train for one iteration, and verify where the interval says so."""
        previous, began = self.iteration, time.monotonic()
        self._learn(until=(previous + 1) * self._size)
        self.iteration = self.model.num_timesteps // self._size
        row = self._recorder.row(time.monotonic() - began)
        due = crosses(self.settings.verification.interval, previous, self.iteration)
        return Measured(row, self.held_out.verify(self._decide) if due else None)

    def save(self, folder: Path) -> None:
        """Write the model into a folder."""
        save_model(self.model, folder)

    def summary(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """Compare held-out prompts under the pipeline's own settings and under the policy."""
        return verified_change(
            rows, "Held-out accuracy: {first} with the pipeline's own settings, {last} with the policy."
        )

    def close(self) -> None:
        """Close the training and held-out environments."""
        self._opened.close()

    def _learn(self, *, until: int) -> None:
        """Train up to a number of steps; an iteration that breaks off does not count."""
        steps = self.model.num_timesteps
        begin_episodes(self.model, self.settings.run.seed)
        try:
            with progress_over(self.model, self.settings.run.iterations * self._size):
                self.model.learn(until - steps, callback=CallbackList(self._callbacks), reset_num_timesteps=False)
        except Exception:
            self.model.num_timesteps = steps
            raise

    def _decide(self, observation: Any) -> Any:
        return self.model.predict(observation, deterministic=True)[0]
