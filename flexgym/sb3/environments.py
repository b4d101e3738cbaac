"""The environments of a run: those to train in, and the evaluation on held-out prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env import VecMonitor

from flexgym.config import SB3Settings
from flexgym.sb3.held_out import HeldOut, Scorer
from flexgym.sb3.vec_env import SB3VecEnv
from flexgym.shapes.splits import draw_prompts

Wrap = Callable[[VectorEnv, str, Mapping[str, Any]], VectorEnv]
"""Puts the reward of a name, with its settings, on a vector environment."""


def make_envs(settings: SB3Settings, wrap: Wrap) -> VecMonitor:
    """Make the environments to train in, with their reward."""
    chosen, reward = settings.environment, settings.reward
    envs = gymnasium.make_vec(
        chosen.env, num_envs=chosen.num_envs, autoreset_mode=AutoresetMode.SAME_STEP, **chosen.settings
    )
    return VecMonitor(SB3VecEnv(wrap(envs, reward.name, reward.settings)))


def make_held_out(settings: SB3Settings, envs: VecMonitor, verifier: Scorer) -> HeldOut:
    """Make the evaluation on held-out prompts, which shares the generator of the environments."""
    chosen, environment = settings.verification, settings.environment
    generator = envs.get_attr("generator")[0]
    prompts: Any = chosen.prompts
    if prompts is None:
        prompts = draw_prompts(generator.modality, chosen.split, chosen.num_prompts, seed=chosen.seed)
    config = {**environment.settings, "generator": generator, "group_size": 1, "prompts": list(prompts)}
    env = gymnasium.make(environment.env, **config)
    return HeldOut(env, prompts[: chosen.num_prompts], verifier, seed=chosen.seed, audits=chosen.audit)
