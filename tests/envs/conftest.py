from __future__ import annotations

import gymnasium as gym
import pytest

import flexgym  # noqa: F401
from tests.generators.tiny import PROMPTS, shared

collect_ignore = ["gymnasium_suite"]
FAMILY = {"FlexT2I-v0": "sd3", "FlexT2V-v0": "wan", "FlexT2IControl-v0": "sd3", "FlexT2VControl-v0": "wan"}


@pytest.fixture
def make():
    def build(name="FlexT2I-v0", **arguments):
        defaults = {"generator": shared(FAMILY[name]), "group_size": 2, "prompts": PROMPTS}
        return gym.make(name, **(defaults | arguments))

    return build


@pytest.fixture
def make_vec():
    def build(name="FlexT2I-v0", **arguments):
        defaults = {"generator": shared(FAMILY[name]), "group_size": 2, "prompts": PROMPTS, "num_envs": 3}
        return gym.make_vec(name, **(defaults | arguments))

    return build
