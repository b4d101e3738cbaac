"""The loop of reward-model training, and its two algorithms: SFT on traces, then DPO on pairs of them."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME

from flexgym.core.metrics import Mean, Metric, reduce_rows
from flexgym.rllib.sharded import ShardedAlgorithm
from flexgym.rm.config import RewardModelConfig
from flexgym.rm.held_out import PREFIX
from flexgym.runs.known_metrics import iteration_seconds

_DISPLAYED = {"loss": 0, "mean_token_accuracy": 1, "rewards/accuracies": 2, "rewards/margins": 3, "gradient_norm": 4}
"""Metrics that the display shows, with their order. TRL reports many more, which are recorded only."""


class RewardModelAlgorithm(ShardedAlgorithm):
    """Base of the algorithms that train a judge."""

    config: RewardModelConfig

    def setup(self, config: RewardModelConfig) -> None:
        """Build the learners, each with its trainer and its view of the data."""
        super().setup(config)
        self.rows_so_far = 0

    def training_step(self) -> None:
        """Take some optimizer steps and report their metrics, see `ShardedAlgorithm.report`."""
        started = time.perf_counter()
        steps, rows = self.config.steps_per_iteration, self.rows_so_far
        results = self.on_learners(lambda learner: learner.take_steps(steps, rows_so_far=rows))
        seen = steps * self.config.batch_size
        self.rows_so_far += seen
        learned = reduce_rows([{name: _metric(name, value) for name, value in result.items()} for result in results])
        row: dict[str, Metric | float] = {**learned, "rows": float(self.rows_so_far)}
        if (self.iteration + 1) % self.config.held_out_interval == 0:
            row |= self.evaluate_held_out()
        self.report({**row, "time/iteration_s": iteration_seconds(time.perf_counter() - started)})
        self.metrics.log_value((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), seen, reduce="lifetime_sum")

    def evaluate_held_out(self) -> dict[str, Metric | float]:
        """Compute TRL's loss and metrics on the held-out rows, such as ``eval/loss``, and the seconds that it took.

        Nothing that trains changes. Empty where the config names no held-out files.
        """
        if not self.config.held_out_files:
            return {}
        started = time.perf_counter()
        figures = self.on_learners(lambda learner: learner.evaluate_held_out())[0]
        measured = {name: _metric(name, value) for name, value in figures.items()}
        return {**measured, "time/eval_s": time.perf_counter() - started}

    def save_judge(self, folder: Path) -> None:
        """Write what was trained in the format of transformers or peft; the first learner alone does it."""
        target = str(folder)
        self.on_learners(lambda learner: learner.save_judge(target))

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """RLlib's state and how many rows were seen."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        return {**state, "rows_so_far": self.rows_so_far}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Put a state of `get_state` back."""
        super().set_state(state)
        self.rows_so_far = state.get("rows_so_far", 0)

    def restore_from_path(self, path: str | Path, *args: Any, **kwargs: Any) -> None:
        """Restore a checkpoint; RLlib's own method wants an env runner group, and there is none."""
        Checkpointable.restore_from_path(self, path, *args, **kwargs)


def _metric(name: str, value: float) -> Metric:
    """Make a metric of a number that TRL's trainer or the learner reports."""
    place = _DISPLAYED.get(name.removeprefix(PREFIX))
    sparse = name.startswith(PREFIX)
    return Mean(value, sparse=sparse, panel="hidden" if place is None else "values", priority=place or 0)
