"""One run of an algorithm of Stable-Baselines3: the same folder, metrics, pictures and checkpoints as other agents."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import VecMonitor

from flexgym.core.errors import RewardError
from flexgym.runs.display import TrainingDisplay
from flexgym.runs.folder import RunFolder
from flexgym.runs.interrupt import GracefulInterrupt, resume_message
from flexgym.runs.metrics import read_metrics
from flexgym.runs.tensorboard import TensorboardLog
from flexgym.runs.verification import Verification, save_verification
from flexgym.sb3.checkpoint import restore_model, save_model
from flexgym.sb3.held_out import HeldOut, SampleGridCallback, Scorer
from flexgym.sb3.settings import SB3Settings
from flexgym.sb3.vec_env import SB3VecEnv
from flexgym.shapes.sampling import sample_prompts

_CHOSEN = ("guidance_scale", "eta")
"""What the control environments say in their infos of the action taken."""


class SB3Run:
    """Trains one model in one run folder.

    Args:
        settings: the recipe.
        wrap: puts the reward of that name and settings on a vector environment.
        verifier: scores the held-out samples.
        resume: a run folder or checkpoint to go on from; None starts afresh.
        command: the words that start the program, for the message on how to resume.
    """

    def __init__(
        self,
        settings: SB3Settings,
        *,
        wrap: Callable[[VectorEnv, str, Mapping[str, Any]], VectorEnv],
        verifier: Scorer,
        resume: Path | None = None,
        command: Sequence[str] = (),
    ) -> None:
        self.settings, self.command = settings, command
        self._wrap, self._verifier = wrap, verifier
        run = settings.run
        if resume:
            self.folder = RunFolder.resume(resume, keep=run.keep)
        else:
            self.folder = RunFolder.create(run.root, run.name, keep=run.keep)
        self.folder.write_config(settings.describe())
        self.tensorboard = TensorboardLog(self.folder.tensorboard, start_iteration=self.folder.start_iteration)

    def train(self, callbacks: Sequence[BaseCallback] = ()) -> Path:
        """Train to the end, or until Ctrl-C; either way what was learnt is saved.

        Args:
            callbacks: of Stable-Baselines3, beside those of the run.

        Returns:
            The run folder.
        """
        started = time.monotonic()
        with self.folder, self.tensorboard:
            envs = self.make_envs()
            try:
                self._train(envs, callbacks, started=started)
            finally:
                envs.close()
        return self.folder.path

    def make_envs(self) -> VecMonitor:
        """The environments to train in, with their reward."""
        chosen, reward = self.settings.environment, self.settings.reward
        envs = gymnasium.make_vec(
            chosen.env, num_envs=chosen.num_envs, autoreset_mode=AutoresetMode.SAME_STEP, **chosen.env_config
        )
        return VecMonitor(SB3VecEnv(self._wrap(envs, reward.name, reward.settings)))

    def make_held_out(self, envs: VecMonitor) -> HeldOut:
        """The held-out prompts, made by the same generator."""
        chosen, environment = self.settings.verification, self.settings.environment
        generator = envs.get_attr("generator")[0]
        prompts = chosen.prompts or sample_prompts(generator.modality, "held_out", chosen.num_prompts, seed=chosen.seed)
        config = {**environment.env_config, "generator": generator, "group_size": 1, "prompts": list(prompts)}
        env = gymnasium.make(environment.env, **config)
        return HeldOut(env, prompts[: chosen.num_prompts], self._verifier, seed=chosen.seed)

    def _train(self, envs: VecMonitor, callbacks: Sequence[BaseCallback], *, started: float) -> None:
        model = self.settings.build(envs)
        model.set_logger(configure(None, []))
        if self.folder.resumed_from:
            restore_model(model, self.folder.resumed_from)
            # not the draws of the first part again
            model.set_random_seed(self.settings.training.seed + model.num_timesteps)
        title = f"{type(model).__name__}, {self.folder.shown}"
        history = read_metrics(self.folder.path / "metrics.jsonl")
        total = self.settings.run.iterations * self.settings.training.steps_per_iteration
        display = TrainingDisplay(self.settings.run.iterations, title=title, history=history)
        grids = SampleGridCallback(
            self.make_held_out(envs), self.folder.samples, interval=0, tensorboard=self.tensorboard
        )
        with display, GracefulInterrupt(display.announce) as interrupt:
            progress = _Progress(self, display, grids, stops=lambda: interrupt.requested)
            progress.deadline = started + 60.0 * (self.settings.run.minutes or float("inf"))
            try:
                model.learn(
                    max(0, total - model.num_timesteps),
                    callback=CallbackList([grids, progress, *callbacks]),
                    reset_num_timesteps=False,
                )
            except RewardError:
                self.checkpoint(model)
                self._finish(display, finished=False)
                raise
            self._finish(display, finished=not interrupt.requested)

    def record(self, row: dict[str, Any], display: TrainingDisplay) -> None:
        """Metrics of an iteration to the file, TensorBoard and the display."""
        self.folder.metrics.append(row)
        self.tensorboard.scalars(row, row["iteration"])
        display.update(row)

    def checkpoint(self, model: BaseAlgorithm) -> Path:
        """Save the model under the iteration that it is in."""
        iteration = model.num_timesteps // self.settings.training.steps_per_iteration
        return self.folder.checkpoints.publish(iteration, lambda folder: save_model(model, folder))

    def _finish(self, display: TrainingDisplay, *, finished: bool) -> None:
        if not finished:
            latest = self.folder.checkpoints.latest()
            display.note(resume_message(self.folder.shown, latest, command=self.command))
            return
        rows = [row for row in read_metrics(self.folder.path / "metrics.jsonl") if row.get("eval/verifier_accuracy")]
        if len(rows) > 1:
            first, last = rows[0]["eval/verifier_accuracy"], rows[-1]["eval/verifier_accuracy"]
            display.note(f"Held-out prompts met: {first:.3f} as the pipeline samples, {last:.3f} as the policy does.")
        display.note(f"Metrics, samples and checkpoints: {self.folder.shown}")


class _Progress(BaseCallback):
    """Ends iterations between two updates, when the policy is at rest: metrics, verification, checkpoint, and stops.

    Iteration 0 is verified as the pipeline samples by itself.
    """

    def __init__(
        self, run: SB3Run, display: TrainingDisplay, grids: SampleGridCallback, *, stops: Callable[[], bool]
    ) -> None:
        super().__init__()
        self.run, self.display, self.grids, self.stops = run, display, grids, stops
        self.deadline = float("inf")
        self._iteration = run.folder.start_iteration
        self._episodes: list[dict[str, float]] = []
        self._began = time.monotonic()
        self._verification_s = self._longest = 0.0
        self._rollout_began = self._rollout_s = 0.0
        self._ended = False

    def _on_training_start(self) -> None:
        if not self.run.folder.resumed_from:
            verification = self._timed(self.grids.held_out.verify_default)
            save_verification(verification, self.run.folder.samples, self.run.tensorboard, iteration=0)
            self.run.record({"iteration": 0, "steps": 0, **verification.metrics}, self.display)
        self.display.phase("training")
        self._began = time.monotonic()

    def _on_rollout_start(self) -> None:
        if self.num_timesteps // self._size > self._iteration:
            self._end_iteration()
        self._rollout_began = time.monotonic()

    def _on_rollout_end(self) -> None:
        self._rollout_s += time.monotonic() - self._rollout_began

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info:
                chosen = {f"action/{name}": info[name] for name in _CHOSEN if name in info}
                self._episodes.append({"reward/mean": info["episode"]["r"], **chosen})
        return not self._ended

    def _on_training_end(self) -> None:
        if not self._ended and self.num_timesteps // self._size > self._iteration:
            self._end_iteration(last=True)

    @property
    def _size(self) -> int:
        return self.run.settings.training.steps_per_iteration

    def _end_iteration(self, *, last: bool = False) -> None:
        previous, self._iteration = self._iteration, self.num_timesteps // self._size
        now = time.monotonic()
        self._longest = max(self._longest, now - self._began)
        late = now + self._longest + self._verification_s > self.deadline
        self._ended = last or late or self.stops()
        row = {"iteration": self._iteration, "steps": self.num_timesteps, **self._means(), **self._losses()}
        row.update(self._times(now - self._began))
        if self._ended or self._crosses(previous, self.run.settings.verification.interval):
            row.update(self._timed(lambda: self.grids.verify(self._iteration)).metrics)
        self.run.record(row, self.display)
        if self._ended or self._crosses(previous, self.run.settings.run.checkpoint_interval):
            self.run.checkpoint(self.model)
        self._began = time.monotonic()

    def _crosses(self, previous: int, interval: int) -> bool:
        """Whether a multiple of the interval lies in what was done since."""
        return bool(interval) and self._iteration // interval > previous // interval

    def _timed(self, verify: Callable[[], Verification]) -> Verification:
        self.display.phase("verifying")
        started = time.monotonic()
        verification = verify()
        self._verification_s = time.monotonic() - started
        self.display.phase("training")
        return verification

    def _means(self) -> dict[str, float]:
        episodes, self._episodes = self._episodes, []
        names = episodes[0] if episodes else {}
        return {name: float(np.mean([episode[name] for episode in episodes])) for name in names}

    def _times(self, iteration_s: float) -> dict[str, float]:
        """What acting took, rewards included, and what is left for the updates."""
        rollout_s, self._rollout_s = self._rollout_s, 0.0
        return {
            "time/rollout_s": rollout_s,
            "time/update_s": iteration_s - rollout_s,
            "time/iteration_s": iteration_s,
        }

    def _losses(self) -> dict[str, float]:
        """What the algorithm logged of its last update."""
        logged = self.logger.name_to_value
        return {name: float(value) for name, value in logged.items() if name.startswith("train/")}
