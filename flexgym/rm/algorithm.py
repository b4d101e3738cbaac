"""The loop of reward-model training, and its two algorithms: SFT on traces, then DPO on pairs of them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import COMPONENT_LEARNER_GROUP
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME

from flexgym.rm.config import RewardModelConfig

METRICS = "flexgym"
"""Where the metrics of an iteration stand in RLlib's result."""


class RewardModelAlgorithm(Algorithm):
    """Base of the algorithms that train a judge."""

    config: RewardModelConfig

    def setup(self, config: RewardModelConfig) -> None:
        """Build the learners, each with its trainer and its view of the data."""
        super().setup(config)
        self.rows_so_far = 0

    def training_step(self) -> None:
        """Some optimiser steps; their metrics stand in the result under `METRICS`."""
        started = time.perf_counter()
        steps, rows = self.config.steps_per_iteration, self.rows_so_far
        results = self.on_learners(lambda learner: learner.take_steps(steps, rows_so_far=rows))
        seen = steps * self.config.batch_size
        self.rows_so_far += seen
        metrics = {name: float(np.mean([result[name] for result in results])) for name in results[0]}
        metrics |= {"rows": float(self.rows_so_far)}
        if (self.iteration + 1) % self.config.held_out_interval == 0:
            metrics |= self.evaluate_held_out()
        metrics |= {"time/iteration_s": time.perf_counter() - started}
        for name, value in metrics.items():
            self.metrics.log_value((METRICS, name), value, window=1)
        self.metrics.log_value((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), seen, reduce="lifetime_sum")

    def evaluate_held_out(self) -> dict[str, float]:
        """TRL's loss and figures on the held-out rows, such as ``eval/loss``, and the seconds that they took.

        Nothing that is trained moves. Empty where the config names no held-out files.
        """
        if not self.config.held_out_files:
            return {}
        started = time.perf_counter()
        figures = self.on_learners(lambda learner: learner.evaluate_held_out())[0]
        return {**figures, "time/eval_s": time.perf_counter() - started}

    def on_learners(self, call: Callable[[Any], Any]) -> list[Any]:
        """What a call gives on each learner, in their order."""
        results = list(self.learner_group.foreach_learner(call))
        return [result.get() for result in sorted(results, key=lambda result: result.actor_id or 0)]

    def save_judge(self, folder: Path) -> None:
        """Write what was trained in the format of transformers or peft; the first learner alone does it."""
        target = str(folder)
        self.on_learners(lambda learner: learner.save_judge(target))

    def save_to_path(self, *args: Any, **kwargs: Any) -> Any:
        """Write a checkpoint, see RLlib's method."""
        with self._gathered():
            return super().save_to_path(*args, **kwargs)

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """RLlib's state and how many rows were seen."""
        asked = self._check_component(COMPONENT_LEARNER_GROUP, components, not_components)
        with self._gathered() if asked else contextlib.nullcontext():
            state = super().get_state(components, not_components=not_components, **kwargs)
        return {**state, "rows_so_far": self.rows_so_far}

    @contextlib.contextmanager
    def _gathered(self) -> Iterator[None]:
        """The first learner, whom RLlib asks alone, has the parts of all others where the model is sharded."""
        self.on_learners(lambda learner: learner.gather_state())
        try:
            yield
        finally:
            self.on_learners(lambda learner: learner.release_state())

    def set_state(self, state: dict[str, Any]) -> None:
        """Put a state of `get_state` back."""
        super().set_state(state)
        self.rows_so_far = state.get("rows_so_far", 0)

    def restore_from_path(self, path: str | Path, *args: Any, **kwargs: Any) -> None:
        """Restore a checkpoint; RLlib's own method wants an env runner group, and there is none."""
        Checkpointable.restore_from_path(self, path, *args, **kwargs)
