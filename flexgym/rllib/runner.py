"""The env runner of every agent: a vector environment of groups, a policy and a reward."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import gymnasium as gym
import numpy as np
import ray
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SPACES
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.framework import get_device
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from flexgym.algorithm.base import CURRENT, REFERENCE
from flexgym.algorithm.kept import Rollout, concatenate
from flexgym.algorithm.policy import FlowPolicy
from flexgym.algorithm.replay import REWARD_GRADIENT
from flexgym.algorithm.reward_steps import with_reward_gradient
from flexgym.algorithm.rollout import collect, samples_of
from flexgym.core.precision import dtype_named
from flexgym.flow import Steps
from flexgym.reward import Reward, no_gradient_scores
from flexgym.rllib.config import FlowConfig
from flexgym.rllib.module import FlowModule
from flexgym.runs.records import RecordedGroup, category_of_prompt, reduced
from flexgym.types import GroupScores

Scoring = Future[tuple[list[GroupScores], float]]
"""Future of the group scores, with the time at which they became available (`time.perf_counter`)."""


@dataclass(frozen=True, eq=False)
class Part:
    """Groups of one forward: sampled, and scored in the background while the next part is sampled.

    Attributes:
        rollout: of the groups.
        submitted: time at which the groups went to the reward (`time.perf_counter`).
        scoring: scores of the reward that is optimized.
        monitoring: scores of each monitored reward.
        media: encoded samples of the first groups, see `flexgym.runs.records.RecordedGroup`.
    """

    rollout: Rollout
    submitted: float
    scoring: Scoring
    monitoring: Mapping[str, Scoring]
    media: Sequence[tuple[bytes, ...]] = ()

    @classmethod
    def given(cls, rollout: Rollout, scores: list[GroupScores]) -> Part:
        """Return groups that come with their scores."""
        now = time.perf_counter()
        done: Scoring = Future()
        done.set_result((scores, now))
        return cls(rollout, now, done, monitoring={})

    @cached_property
    def scores(self) -> list[GroupScores]:
        """Scores of each group; waits for them, and raises what the reward raised."""
        return self.scoring.result()[0]

    @property
    def recorded(self) -> list[RecordedGroup]:
        """The groups with encoded samples that a judge compared; waits for the scores."""
        recorded = zip(self.rollout.prompts, self.media, self.scores, strict=False)
        return [
            RecordedGroup(prompt.text, category_of_prompt(prompt), media, scores)
            for prompt, media, scores in recorded
            if scores.assessments
        ]


@dataclass(frozen=True)
class Scored:
    """Scores and timings of a rollout, small enough to be sent between processes.

    Attributes:
        captions: text of the prompt of each group.
        scores: one per group.
        monitors: scores of each monitored reward, float32 ``[P, G]``.
        rollout_seconds: wall time of denoising and decoding.
        reward_seconds: wall time in which the reward was busy, alone or beside other phases.
        usage: metrics of the reward itself, see `Reward.metrics`.
        recorded: groups to keep for a report, if a judge compared them.
    """

    captions: tuple[str, ...]
    scores: tuple[GroupScores, ...]
    monitors: Mapping[str, NDArray[np.float32]]
    rollout_seconds: float
    reward_seconds: float
    usage: Mapping[str, float]
    recorded: tuple[RecordedGroup, ...] = ()

    @classmethod
    def of(cls, parts: Sequence[Part], reward: Reward | None) -> Scored:
        """Combine all parts; waits for their scores. Groups of a data set have no reward."""
        return cls(
            captions=tuple(prompt.text for part in parts for prompt in part.rollout.prompts),
            scores=tuple(group for part in parts for group in part.scores),
            monitors={
                name: np.stack([group.rewards for part in parts for group in part.monitoring[name].result()[0]])
                for name in parts[0].monitoring
            },
            rollout_seconds=sum(part.rollout.seconds for part in parts),
            reward_seconds=_busy_seconds(parts),
            usage={} if reward is None else reward.metrics(),
            recorded=tuple(group for part in parts for group in part.recorded),
        )


def _busy_seconds(parts: Sequence[Part]) -> float:
    """Return how long the reward was busy; it takes the parts in order, each as soon as it arrives."""
    busy = free = 0.0
    for part in parts:
        finished = part.scoring.result()[1]
        busy += finished - max(part.submitted, free)
        free = finished
    return busy


def _stamped(scores: Future[list[GroupScores]]) -> Scoring:
    stamped: Scoring = Future()

    def pass_on(done: Future[list[GroupScores]]) -> None:
        if error := done.exception():
            stamped.set_exception(error)
        else:
            stamped.set_result((done.result(), time.perf_counter()))

    scores.add_done_callback(pass_on)
    return stamped


class GroupEnvRunner(EnvRunner, Checkpointable):
    """Samples unsplit groups and scores them.

    Args:
        config: of the algorithm.
        module: shared by a colocated learner; a separate runner makes its own.
        **kwargs: as for RLlib's `EnvRunner`.
    """

    config: FlowConfig

    def __init__(self, *, config: FlowConfig, module: FlowModule | None = None, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        self.module = module
        self._acts = CURRENT if module is None else config.algorithm.acts  # a separate runner is sent what acts
        self.env: VectorEnv | None = None
        self._weights_seq_no = 0
        self._reward = config.make_reward()
        if REWARD_GRADIENT in config.algorithm.requires and not self._reward.has_gradient_scores():
            raise no_gradient_scores(self._reward.name)
        self._monitors = config.make_monitors()
        for reward in (self._reward, *self._monitors.values()):
            reward.start()  # while the generator is loaded and held-out samples are verified
        if self.module is None:
            # a separate runner: RLlib asks it for its spaces before anything is sampled
            self.make_module()
            self.make_env()

    def make_module(self) -> None:
        """Load the generator on the runner's device."""
        spec = self.config.get_rl_module_spec(env=None, spaces=None, inference_only=True)
        self.module = spec.build().to(get_device(self.config, self.config.num_gpus_per_env_runner))
        if self.config.settings.generator.release_text_encoders:
            self.module.generator.text.release(self.config.run_prompts())

    def make_env(self) -> VectorEnv:
        """Make a vector environment over the module's generator, with as many groups as one forward takes."""
        assert self.module is not None
        self.env = self.config.make_envs(self.module.generator)
        return self.env

    def roll_out(self, *, seeds: Sequence[int], window: Steps, references: bool = False, record: int = 0) -> list[Part]:
        """Sample one group per seed, part by part; each part is scored while the next is sampled.

        Args:
            seeds: of the groups, see `collect`; a multiple of the groups of one forward.
            window: the trained steps.
            references: sample with the reference policy as well, with the same seeds, for the reward to compare.
            record: number of groups, the first ones, whose reduced samples are kept with the scores.
        """
        assert self.module is not None
        envs = self.env or self.make_env()
        settings = self.config.settings.rollout
        policy = self.module.acting_policy(
            groups_per_forward=settings.groups_per_forward, latents_dtype=dtype_named(settings.latents_dtype)
        )
        part = partial(self._part, envs, policy, window, references=references)
        return [
            part(seeds=seeds[start : start + envs.num_envs], record=max(0, record - start))
            for start in range(0, len(seeds), envs.num_envs)
        ]

    def _part(
        self,
        envs: VectorEnv,
        policy: FlowPolicy,
        window: Steps,
        *,
        seeds: Sequence[int],
        references: bool,
        record: int,
    ) -> Part:
        """Sample the groups of one forward and hand them to the reward."""
        assert self.module is not None
        weights = self.module.weights
        with weights.using(self._acts):
            rollout = collect(envs, policy, window, seeds=seeds, keep=self.config.algorithm.requires)
            submitted = time.perf_counter()
            rollout, differentiated = self._differentiated(policy, rollout)
        groups = rollout.groups
        if references:
            with weights.using(REFERENCE):
                before = samples_of(envs, policy, window, seeds=seeds)
            groups = [replace(group, references=samples) for group, samples in zip(groups, before, strict=True)]
        if differentiated is None:
            submitted = time.perf_counter()
        scoring = _stamped(differentiated or self._reward.submit(groups))
        monitoring = {name: _stamped(reward.submit(groups)) for name, reward in self._monitors.items()}
        side = self.config.settings.run.records.side
        media = [tuple(reduced(sample, side) for sample in group.joined().samples) for group in groups[:record]]
        return Part(rollout, submitted, scoring, monitoring=monitoring, media=media)

    def _differentiated(self, policy: FlowPolicy, rollout: Rollout) -> tuple[Rollout, Future[list[GroupScores]] | None]:
        """Score a rollout with gradients where the algorithm needs them, in this process, which has the autoencoder."""
        algorithm = self.config.algorithm
        if REWARD_GRADIENT not in algorithm.requires:
            return rollout, None
        rollout, scores = with_reward_gradient(policy, self._reward, rollout, guidance=algorithm.guidance)
        done: Future[list[GroupScores]] = Future()
        done.set_result(scores)
        return rollout, done

    def sample(
        self, *, seeds: Sequence[int], window: Steps, references: bool = False, record: int = 0, **kwargs: Any
    ) -> tuple[Rollout, Scored]:
        """Sample one group per seed and score them all.

        Args:
            seeds: of the groups.
            window: the trained steps.
            references: see `roll_out`.
            record: see `roll_out`.
            **kwargs: unused.
        """
        parts = self.roll_out(seeds=seeds, window=window, references=references, record=record)
        return concatenate([part.rollout for part in parts]), self.scored(parts)

    def scored(self, parts: Sequence[Part]) -> Scored:
        """Wait for the scores of the parts of `roll_out` and return them."""
        return Scored.of(parts, self._reward)

    def get_metrics(self) -> Any:
        """Return RLlib's own counters since the last call."""
        return self.metrics.reduce()

    def get_spaces(self) -> dict[str, tuple[gym.Space, gym.Space]]:
        """Return the spaces of the environment; empty before it is made."""
        if self.env is None:
            return {}
        single = (self.env.single_observation_space, self.env.single_action_space)
        return {INPUT_ENV_SPACES: (self.env.observation_space, self.env.action_space), DEFAULT_MODULE_ID: single}

    def assert_healthy(self) -> None:
        """Assert that there is a module to act with."""
        assert self.module is not None

    def stop(self) -> None:
        """Close environment and rewards."""
        if self.env is not None:
            self.env.close()
        for reward in (self._reward, *self._monitors.values()):
            reward.close()

    def get_state(
        self,
        components: str | Collection[str] | None = None,
        *,
        not_components: str | Collection[str] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Return weights and their sequence number; there is no other state, since every group brings its seed."""
        state: dict[str, Any] = {WEIGHTS_SEQ_NO: self._weights_seq_no}
        if self.module is not None and self._check_component(COMPONENT_RL_MODULE, components, not_components):
            state[COMPONENT_RL_MODULE] = self.module.get_state(**kwargs)
        return state

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Load weights that a learner sent."""
        weights = state.get(COMPONENT_RL_MODULE)
        if weights is None or self.module is None:
            return
        if isinstance(weights, ray.ObjectRef):
            weights = ray.get(weights)
        self.module.set_state(weights.get(DEFAULT_MODULE_ID, weights))
        self._weights_seq_no = state.get(WEIGHTS_SEQ_NO, 0)

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[()], dict[str, Any]]:
        """Return the arguments that make this runner again."""
        return (), {"config": self.config}

    def get_checkpointable_components(self) -> list[tuple[str, Any]]:
        """Return the module as the only component."""
        return [] if self.module is None else [(COMPONENT_RL_MODULE, self.module)]


def mean_score(scores: Sequence[GroupScores]) -> float:
    """Return the mean reward over all scored samples; NaN if there is none."""
    return mean_valid(np.concatenate([group.rewards for group in scores]))


def mean_valid(scores: NDArray[np.float32]) -> float:
    """Return the mean of scores of any shape without those that are NaN; NaN if there is none."""
    valid = scores[~np.isnan(scores)]
    return float(valid.mean()) if len(valid) else float("nan")
