"""FlexGym's own environments keep the rules of its kit."""

from __future__ import annotations

import gymnasium as gym
import pytest

import flexgym  # noqa: F401
from flexgym import rewards
from flexgym.testing import EnvironmentConformance
from tests.envs.conftest import FAMILY
from tests.generators.tiny import PROMPTS, shared


class Registered(EnvironmentConformance):
    """An environment by its id."""

    name = "FlexT2I-v0"
    more: dict = {}

    @property
    def arguments(self):
        tiny = {"generator": shared(FAMILY[self.name]), "group_size": 2, "prompts": PROMPTS}
        return {**tiny, "render_mode": "rgb_array", **self.more}

    def make(self):
        return gym.make(self.name, **self.arguments)

    def make_vector(self, num_envs, mode):
        return gym.make_vec(self.name, num_envs=num_envs, autoreset_mode=mode, **self.arguments)


class TestFlexT2I(Registered):
    pass


@pytest.mark.slow
class TestFlexT2IWithPreview(Registered):
    more = {"preview": True}


class TestFlexT2V(Registered):
    name = "FlexT2V-v0"


class TestFlexT2IControl(Registered):
    name = "FlexT2IControl-v0"


@pytest.mark.slow
class TestFlexT2IControlOfTwoDecisions(Registered):
    name, more = "FlexT2IControl-v0", {"decisions": 2}


class TestFlexT2VControl(Registered):
    name = "FlexT2VControl-v0"


class TestScoredEnvironment(Registered):
    """One that has its reward around it already."""

    name, more = "FlexT2IControl-v0", {"prompts": ["a red circle", "a blue square"]}

    def make(self):
        return rewards.ShapesVerifier(super().make())

    def make_vector(self, num_envs, mode):
        return rewards.vector.ShapesVerifier(super().make_vector(num_envs, mode))
