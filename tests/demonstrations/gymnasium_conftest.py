"""FlexGym's environments in place of those that Gymnasium's own test files use; written beside these as a conftest."""

from __future__ import annotations

import os
import re
import sys
import types

import gymnasium as gym
import numpy as np
from gymnasium.spaces import flatten, flatten_space

import flexgym  # noqa: F401

NAME = os.environ["FLEXGYM_ID"]
# the tests of vectors take three steps of an episode
SMALL = {"group_size": 2, "num_steps": 4, "height": 16, "width": 16}
SMALL |= {"num_frames": 5} if "T2V" in NAME else {}
SMALL |= {"decisions": 4} if "Control" in NAME else {}


class Flat(gym.Env):
    """One of FlexGym's environments with an array as its observation, as Gymnasium's tests of vectors expect."""

    metadata = {"render_modes": ["rgb_array", "rgb_array_list"], "render_fps": 8}

    def __init__(self, render_mode=None):
        self.inner = gym.make(NAME, **SMALL, render_mode="rgb_array").unwrapped
        self.render_mode = render_mode
        self.action_space = self.inner.action_space
        self.observation_space = flatten_space(self.inner.observation_space)

    def _flat(self, observation):
        return np.asarray(flatten(self.inner.observation_space, observation), self.observation_space.dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        observation, info = self.inner.reset(seed=seed, options=options)
        return self._flat(observation), info

    def step(self, action):
        observation, *others = self.inner.step(action)
        return self._flat(observation), *others

    def render(self):
        return self.inner.render()


gym.register("CartPole-v1", entry_point=Flat)


def make_env(name, seed, **arguments):
    """Return a function that makes a seeded environment."""

    def make():
        env = gym.make(name, disable_env_checker=True, **arguments)
        env.action_space.seed(seed)
        env.reset(seed=seed)
        return env

    return make


making = types.ModuleType("tests.vector.testing_utils")
making.make_env = make_env
sys.modules[making.__name__] = making
module = types.ModuleType("tests.envs.utils")
module.all_testing_env_specs = [gym.make(NAME, **SMALL).spec]
module.all_testing_initialised_envs = [gym.make(NAME, **SMALL, disable_env_checker=True).unwrapped]
sys.modules["tests.envs.utils"] = module

UNAVOIDABLE = [
    "A Box action space minimum value is -infinity. This is probably too low.",
    "A Box action space maximum value is infinity. This is probably too high.",
]
"""Warnings about latents, which are Gaussian and therefore unbounded."""


def pytest_collection_modifyitems(items):
    for module in {item.module for item in items}:
        if module.__name__.endswith("test_envs"):
            known = set(module.CHECK_ENV_IGNORE_WARNINGS)
            module.CHECK_ENV_IGNORE_WARNINGS += sorted({f"\x1b[33mWARN: {text}\x1b[0m" for text in UNAVOIDABLE} - known)
            module.PASSIVE_CHECK_IGNORE_WARNING += [re.escape(text) for text in UNAVOIDABLE]
