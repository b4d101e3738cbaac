"""The kit of environments finds what it is for: for every rule an environment that breaks it."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from flexgym.testing import EnvironmentConformance, broken_rules
from flexgym.types import Prompt


class Dots(gym.Env):
    """Two steps to a group of three noisy images; keeps all rules."""

    observation_space = gym.spaces.Box(0.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    metadata = {"render_modes": []}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.state = 0, self.np_random.random(2, np.float32)
        return self.state, {"prompt": Prompt("dots")}

    def step(self, action):
        self.steps += 1
        self.state = np.clip(self.state + 0.1 * np.asarray(action, np.float32), 0.0, 1.0)
        info = {"prompt": Prompt("dots")}
        if self.steps == 2:
            info["samples"] = self.samples()
        return self.state, 0.0, self.steps == 2, False, info

    def samples(self):
        return self.np_random.integers(0, 256, (3, 4, 4, 3), np.uint8)


class OutOfBounds(Dots):
    observation_space = gym.spaces.Box(0.0, 0.001, (2,), np.float32)


class Unseeded(Dots):
    def samples(self):
        return np.random.randint(0, 256, (3, 4, 4, 3)).astype(np.uint8)


class Sharing(Dots):
    def step(self, action):
        before = self.state
        observation, *rest = super().step(action)
        before[:] = observation
        return observation, *rest


class Floats(Dots):
    def samples(self):
        return super().samples() / 255


class WideRewards(Dots):
    def step(self, action):
        *rest, info = super().step(action)
        if "samples" in info:
            info["group_rewards"] = np.zeros(3)
        return *rest, info


class OtherSpaces(SyncVectorEnv):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.observation_space = gym.spaces.Box(0.0, 2.0, (self.num_envs, 2), np.float32)


class Silent(SyncVectorEnv):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.metadata = {}


class OneSeed(SyncVectorEnv):
    def reset(self, *, seed=None, options=None):
        return super().reset(seed=[seed] * self.num_envs, options=options)


class Unmasked(SyncVectorEnv):
    def step(self, actions):
        *rest, infos = super().step(actions)
        infos = {key: value for key, value in infos.items() if key not in ("_samples", "final_info")}
        return *rest, infos


class Kit(EnvironmentConformance):
    env, vector = Dots, SyncVectorEnv

    def make(self):
        return self.env()

    def make_vector(self, num_envs, mode):
        return self.vector([self.make] * num_envs, autoreset_mode=mode)


BROKEN = {
    "test_gymnasiums_checker_passes": ({"env": OutOfBounds}, "expected no exception, got AssertionError"),
    "test_seeded_episodes_repeat": ({"env": Unseeded}, "the same episode after another reset with the same seed"),
    "test_observations_share_no_memory": ({"env": Sharing}, "the observation of the reset as it was"),
    "test_an_episode_ends_with_its_samples": ({"env": Floats}, "got float64 [3, 4, 4, 3]"),
    "test_group_rewards_are_of_the_agreed_form": ({"env": WideRewards}, "to be float32 [3], one for each sample"),
    "test_vector_spaces_are_the_batch_of_single_ones": ({"vector": OtherSpaces}, "observation_space Box(0.0, 1.0"),
    "test_autoreset_is_what_the_metadata_says": ({"vector": Silent}, "AutoresetMode.NEXT_STEP, got None"),
    "test_a_vector_equals_single_environments": ({"vector": OneSeed}, "the reset of single environments"),
    "test_wrapper_of_vector_equals_vector_of_wrapper": ({"vector": Unmasked}, "of single environments"),
}


def test_a_good_environment_breaks_no_rule():
    assert broken_rules(Kit) == {}


def test_every_rule_has_an_environment_that_breaks_it():
    assert set(BROKEN) == {name for name in dir(EnvironmentConformance) if name.startswith("test_")}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_environment_is_told_its_rule(name):
    parts, told = BROKEN[name]
    test = getattr(type("Broken", (Kit,), parts)(), name)
    with pytest.raises(AssertionError) as failure:
        test()
    assert str(failure.value).startswith(f"broken rule: {test.rule}: expected ")
    assert told in str(failure.value)


def test_a_vector_that_does_not_begin_anew_is_found():
    class Stuck(SyncVectorEnv):
        def step(self, actions):
            self._autoreset_envs[:] = False
            return super().step(actions)

    broken = broken_rules(type("Broken", (Kit,), {"vector": Stuck}))
    assert set(broken) == {
        "test_a_vector_equals_single_environments",
        "test_wrapper_of_vector_equals_vector_of_wrapper",
    }


def test_modes_are_asked_for():
    asked = []

    class Asking(Kit):
        def make_vector(self, num_envs, mode):
            asked.append(mode)
            return super().make_vector(num_envs, mode)

    assert broken_rules(Asking) == {}
    assert set(asked) == {AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP}
