from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence

from flexgym import FlowPolicy
from flexgym.config.sections import RunSettings
from flexgym.core.errors import ConfigError
from tests.generators.tiny import shared

NUMBERS = pytest.mark.parametrize("seed", [np.int64(3), np.uint8(3), np.int32(3)], ids=lambda seed: seed.dtype.name)
WRONG = pytest.mark.parametrize("seed", [True, np.True_, -1, np.int64(-1), 3.0, np.float32(3), "3"], ids=repr)


@NUMBERS
def test_seeds_of_numpy_are_seeds(make, make_vec, seed):
    assert data_equivalence(make().reset(seed=seed), make().reset(seed=3), exact=True)
    envs, plain = make_vec(), make_vec()
    assert data_equivalence(envs.reset(seed=seed), plain.reset(seed=3), exact=True)
    assert envs.np_random_seed == (3, 4, 5)
    assert data_equivalence(envs.reset(seed=[seed, None, seed]), plain.reset(seed=[3, None, 3]), exact=True)
    assert data_equivalence(envs.reset(seed=np.arange(3)), plain.reset(seed=[0, 1, 2]), exact=True)
    for vector in (envs, plain):
        vector.action_space.seed(seed if vector is envs else 3)
    np.testing.assert_array_equal(envs.action_space.sample(), plain.action_space.sample())


@NUMBERS
def test_policies_and_settings_take_seeds_of_numpy(make, seed):
    env = make()
    observation, _ = env.reset(seed=0)
    actions = [FlowPolicy.from_env(env, seed=each)(observation) for each in (seed, 3)]
    np.testing.assert_array_equal(*actions)
    generator = shared("sd3")
    np.testing.assert_array_equal(generator.initial_latents(1, seed), generator.initial_latents(1, 3))
    assert type(RunSettings(seed=seed).seed) is int


@pytest.mark.parametrize("name", ["FlexT2I-v0", "FlexT2IControl-v0"])
@pytest.mark.parametrize("seeds", [np.arange(2), [np.int64(0), np.int64(1)]], ids=["array", "list"])
def test_single_environments_in_a_vector_take_seeds_of_numpy(make_vec, name, seeds):
    envs = make_vec(name, num_envs=2, vectorization_mode="sync")
    assert data_equivalence(envs.reset(seed=list(seeds))[0], envs.reset(seed=[0, 1])[0], exact=True)


@WRONG
def test_what_is_no_seed_is_refused(make, make_vec, seed):
    calls = [
        lambda: make().reset(seed=seed),
        lambda: make_vec().reset(seed=seed),
        lambda: make_vec().reset(seed=[0, seed, 1]),
        lambda: make().action_space.seed(seed),
        lambda: make_vec().single_action_space.seed(seed),
        lambda: FlowPolicy.from_env(make(), seed=seed),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match="seed must be a whole number of at least 0"):
            call()


def test_a_refused_seed_changes_nothing(make_vec):
    envs = make_vec()
    observations, _ = envs.reset(seed=0)
    with pytest.raises(ConfigError):
        envs.reset(seed=[0, True, 1])
    assert (envs.step(observations["latents"])[0]["sigma"] == envs.sigmas[1]).all()
    assert gym.spaces.Box(0, 1) != envs.single_action_space
