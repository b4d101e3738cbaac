"""The loop of judge training: optimizer steps on rows, and the loss on held-out rows."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME

from flexgym.core.metrics import Mean, Metric, reduce_rows
from flexgym.rllib.sharded import ShardedAlgorithm
from flexgym.rllib.transfer import collect
from flexgym.rm.config import JudgeConfig
from flexgym.rm.held_out import PREFIX
from flexgym.runs.known_metrics import iteration_seconds

_DISPLAYED = {"loss": 0, "mean_token_accuracy": 1, "rewards/accuracies": 2, "rewards/margins": 3, "gradient_norm": 4}
"""Metrics that the display shows, with their order. TRL reports many more, which are only recorded."""


class JudgeAlgorithm(ShardedAlgorithm):
    """Trains a judge with the loss of the stage in its config."""

    config: JudgeConfig

    @classmethod
    def get_default_config(cls) -> JudgeConfig:
        """Return a config without settings, which `flexgym.rm.build.judge_config` fills."""
        return JudgeConfig(cls)

    def setup(self, config: JudgeConfig) -> None:
        """Build the learners, each with its own trainer and reader of the data."""
        super().setup(config)
        self.rows_so_far = 0

    def training_step(self) -> None:
        """Take some optimizer steps and report their metrics, see `ShardedAlgorithm.report`."""
        started = time.perf_counter()
        settings, rows = self.config.settings, self.rows_so_far
        steps = settings.training.steps_per_iteration
        results = self.on_learners(lambda learner: learner.take_steps(steps, rows_so_far=rows))
        seen = steps * settings.training.batch_size
        self.rows_so_far += seen
        learned = reduce_rows([{name: _metric(name, value) for name, value in result.items()} for result in results])
        row: dict[str, Metric | float] = {**learned, "rows": float(self.rows_so_far)}
        if (self.iteration + 1) % settings.held_out.interval == 0:
            row |= self.evaluate_held_out()
        self.report({**row, "time/iteration_s": iteration_seconds(time.perf_counter() - started)})
        self.metrics.log_value((ENV_RUNNER_RESULTS, NUM_ENV_STEPS_SAMPLED_LIFETIME), seen, reduce="lifetime_sum")

    def evaluate_held_out(self) -> dict[str, Metric | float]:
        """Compute TRL's loss and metrics on the held-out rows, such as ``eval/loss``, and the time in seconds.

        Training is unaffected. The result is empty if the settings name no held-out files.
        """
        if not self.config.settings.held_out.files:
            return {}
        started = time.perf_counter()
        figures = self.on_learners(lambda learner: learner.evaluate_held_out())[0]
        measured = {name: _metric(name, value) for name, value in figures.items()}
        return {**measured, "time/eval_s": time.perf_counter() - started}

    def save_judge(self, folder: Path) -> None:
        """Write the trained judge in the format of transformers or peft, wherever the learners run."""
        name = folder.name
        collect(self.on_learners, lambda learner, place: learner.save_judge(place / name), folder.parent)

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return RLlib's state and the number of rows so far."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        return {**state, "rows_so_far": self.rows_so_far}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore a state of `get_state`."""
        super().set_state(state)
        self.rows_so_far = state.get("rows_so_far", 0)


def _metric(name: str, value: float) -> Metric:
    """Return a number that TRL's trainer or the learner reports as a metric."""
    place = _DISPLAYED.get(name.removeprefix(PREFIX))
    sparse = name.startswith(PREFIX)
    return Mean(value, sparse=sparse, panel="hidden" if place is None else "values", priority=place or 0)
