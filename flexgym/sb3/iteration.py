"""One iteration of a model of Stable-Baselines3: one call of ``learn`` over new episodes, and the metrics of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from flexgym.core.errors import ConfigError
from flexgym.core.metrics import Mean, Metric
from flexgym.runs.known_metrics import REWARD, iteration_seconds, phase_seconds

_CHOSEN = ("guidance_scale", "eta")
"""Keys of the control environments' infos that hold the action taken."""


def begin_episodes(model: BaseAlgorithm, seed: int) -> None:
    """Let the next call of ``learn`` begin new episodes, with random draws that follow from its first step.

    What an iteration draws then depends on nothing but weights, counts and experience, which a checkpoint holds. An
    episode that is not over is cut, as by a time limit; ``optimize_memory_usage`` knows no time limits, so that there
    it ends, which is what ``learn`` does to it when counting starts again.

    Args:
        model: of any algorithm.
        seed: seed of the run.
    """
    drawn = np.random.SeedSequence([seed, model.num_timesteps]).generate_state(1)
    model.set_random_seed(int(drawn[0]) >> 1)  # Gymnasium's spaces take no more
    model._last_obs = None
    buffer = getattr(model, "replay_buffer", None)
    if buffer is not None and buffer.size():
        last = (buffer.pos - 1) % buffer.buffer_size
        if buffer.handle_timeout_termination:
            buffer.timeouts[last] = np.maximum(buffer.timeouts[last], 1.0 - buffer.dones[last])
        buffer.dones[last] = 1.0


class IterationRecorder(BaseCallback):
    """Records the episodes of one call of ``learn`` and the time that its rollouts take."""

    def __init__(self) -> None:
        super().__init__()
        self._episodes: list[Mapping[str, float]] = []
        self._rollout_s = self._began = 0.0

    def row(self, iteration_s: float) -> dict[str, Metric | float]:
        """Return the metrics of the iteration.

        Args:
            iteration_s: seconds of the call; what rollouts, rewards included, leave of it is the time of the updates.
        """
        logged = self.logger.name_to_value
        return {
            "steps": self.num_timesteps,
            **self._means(),
            **{name: float(value) for name, value in logged.items() if name.startswith("train/")},
            "time/rollout_s": phase_seconds("rollout", self._rollout_s),
            "time/update_s": phase_seconds("update", iteration_s - self._rollout_s),
            "time/iteration_s": iteration_seconds(iteration_s),
        }

    def _means(self) -> dict[str, Metric | float]:
        """Return mean reward and mean actions over the episodes."""
        if not self._episodes:
            raise ConfigError(
                "training.steps_per_iteration: expected at least environment.num_envs times the steps of an episode,"
                " since each iteration begins new episodes, got so few that none of them ended"
            )
        names = self._episodes[0]
        means = {name: float(np.mean([episode[name] for episode in self._episodes])) for name in names}
        return {
            name: REWARD.with_value(mean) if name == "reward/mean" else Mean(mean, panel="hidden")
            for name, mean in means.items()
        }

    def _on_training_start(self) -> None:
        self._episodes, self._rollout_s = [], 0.0

    def _on_rollout_start(self) -> None:
        self._began = time.monotonic()

    def _on_rollout_end(self) -> None:
        self._rollout_s += time.monotonic() - self._began

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                chosen = {f"action/{name}": info[name] for name in _CHOSEN if name in info}
                self._episodes.append({"reward/mean": info["episode"]["r"], **chosen})
        return True


@contextlib.contextmanager
def progress_over(model: BaseAlgorithm, total: int) -> Iterator[None]:
    """Let the schedules of a model run over all its steps rather than over those of one call of ``learn``.

    Args:
        model: of any algorithm.
        total: steps of the whole training.
    """
    update = model._update_current_progress_remaining
    own = vars(model)  # an attribute of this model, before the method of its class
    own["_update_current_progress_remaining"] = lambda done, _: update(done, total)
    try:
        yield
    finally:
        del own["_update_current_progress_remaining"]
