"""The env runner of every flow algorithm: vectorised groups, a policy and a reward."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
import ray
from gymnasium.vector import AutoresetMode
from ray.rllib.core import COMPONENT_RL_MODULE, DEFAULT_MODULE_ID
from ray.rllib.env import INPUT_ENV_SPACES
from ray.rllib.env.env_runner import EnvRunner
from ray.rllib.utils.checkpoints import Checkpointable
from ray.rllib.utils.framework import get_device
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from flexgym.flow import Window
from flexgym.rllib.module import FlowModule
from flexgym.rollout import Rollout, collect
from flexgym.types import GroupScores

if TYPE_CHECKING:
    from flexgym.rllib.config import FlowAlgorithmConfig


@dataclass(frozen=True)
class Scored:
    """What a reward said about a rollout, small enough to be sent anywhere.

    Attributes:
        scores: one per group.
        monitors: mean score of each monitored reward, which is logged and never optimised.
        rollout_seconds: wall time of denoising and decoding.
        reward_seconds: wall time of scoring.
    """

    scores: tuple[GroupScores, ...]
    monitors: Mapping[str, float]
    rollout_seconds: float
    reward_seconds: float


class GroupEnvRunner(EnvRunner, Checkpointable):
    """Rolls out whole groups and scores them.

    Args:
        config: of the algorithm.
        module: shared by a colocated learner; a runner of its own makes one.
        **kwargs: as for RLlib's `EnvRunner`.
    """

    config: FlowAlgorithmConfig

    def __init__(self, *, config: FlowAlgorithmConfig, module: FlowModule | None = None, **kwargs: Any) -> None:
        super().__init__(config=config, **kwargs)
        self.module = module
        self.env: gym.vector.VectorEnv | None = None
        self._weights_seq_no = 0
        self._reward = config.make_reward()
        self._monitors = config.make_monitors()
        if self.module is None:
            # a separate runner: RLlib asks it for its spaces before anything is sampled
            self.make_module()
            self.make_env(config.prompts_per_iteration // max(1, config.num_env_runners))

    def make_module(self) -> None:
        """Load the generator on the runner's device."""
        spec = self.config.get_rl_module_spec(env=None, spaces=None, inference_only=True)
        self.module = spec.build().to(get_device(self.config, self.config.num_gpus_per_env_runner))

    def make_env(self, num_groups: int) -> gym.vector.VectorEnv:
        """Vectorised groups over the module's own generator."""
        assert self.module is not None
        self.env = gym.make_vec(
            self.config.env,
            num_envs=num_groups,
            vectorization_mode="vector_entry_point",
            generator=self.module.generator,
            autoreset_mode=AutoresetMode.DISABLED,
            **self.config.env_arguments,
        )
        return self.env

    def sample(self, *, seeds: Sequence[int], window: Window, **kwargs: Any) -> tuple[Rollout, Scored]:
        """Roll out one group per seed and score them all.

        Args:
            seeds: of the groups, see `collect`.
            window: the trained steps.
            **kwargs: unused.
        """
        assert self.module is not None
        envs = self.env
        if envs is None or envs.num_envs != len(seeds):
            envs = self.make_env(len(seeds))
        policy = self.module.policy(groups_per_forward=self.config.groups_per_forward)
        rollout = collect(envs, policy, window, seeds=seeds)
        started = time.perf_counter()
        scores = self._reward.score(rollout.groups)
        monitors = {name: mean_score(reward.score(rollout.groups)) for name, reward in self._monitors.items()}
        return rollout, Scored(tuple(scores), monitors, rollout.seconds, time.perf_counter() - started)

    def get_metrics(self) -> Any:
        """RLlib's own counters since the last call."""
        return self.metrics.reduce()

    def get_spaces(self) -> dict[str, tuple[gym.Space, gym.Space]]:
        """Spaces of the environment, once there is one."""
        if self.env is None:
            return {}
        single = (self.env.single_observation_space, self.env.single_action_space)
        return {INPUT_ENV_SPACES: (self.env.observation_space, self.env.action_space), DEFAULT_MODULE_ID: single}

    def assert_healthy(self) -> None:
        """Raise when there is no module to act with."""
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
        """Weights and their sequence number; a runner has no other state, since every group brings its seed."""
        state: dict[str, Any] = {WEIGHTS_SEQ_NO: self._weights_seq_no}
        if self.module is not None and self._check_component(COMPONENT_RL_MODULE, components, not_components):
            state[COMPONENT_RL_MODULE] = self.module.get_state(**kwargs)
        return state

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Take weights from a learner."""
        weights = state.get(COMPONENT_RL_MODULE)
        if weights is None or self.module is None:
            return
        if isinstance(weights, ray.ObjectRef):
            weights = ray.get(weights)
        self.module.set_state(weights.get(DEFAULT_MODULE_ID, weights))
        self._weights_seq_no = state.get(WEIGHTS_SEQ_NO, 0)

    def get_ctor_args_and_kwargs(self) -> tuple[tuple[()], dict[str, Any]]:
        """How to make this runner again."""
        return (), {"config": self.config}

    def get_checkpointable_components(self) -> list[tuple[str, Any]]:
        """The module."""
        return [] if self.module is None else [(COMPONENT_RL_MODULE, self.module)]


def mean_score(scores: Sequence[GroupScores]) -> float:
    """Mean reward over all scored samples; NaN when there is none."""
    rewards = np.concatenate([group.rewards for group in scores])
    valid = rewards[~np.isnan(rewards)]
    return float(valid.mean()) if len(valid) else float("nan")
