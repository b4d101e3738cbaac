from __future__ import annotations

import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode

from flexgym import FlowPolicy
from flexgym.core.errors import ActionError, ConfigError, UnknownNameError
from tests.generators.tiny import PROMPTS, shared

MODES = pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])


def same(ours, theirs):
    assert data_equivalence(ours, theirs, exact=True)


@MODES
@pytest.mark.parametrize("name", ["FlexT2I-v0", "FlexT2V-v0"])
def test_policies_and_options_of_a_vector_equal_those_of_single_environments(make_vec, name, mode):
    ours = make_vec(name, autoreset_mode=mode)
    theirs = make_vec(name, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode})
    policies = [FlowPolicy.from_env(envs, seed=4) for envs in (ours, theirs)]
    observations, _ = zip(*(envs.reset(seed=11) for envs in (ours, theirs)), strict=True)
    for _ in range(5):
        actions = [policy(observation) for policy, observation in zip(policies, observations, strict=True)]
        same(*actions)
        observations = [envs.step(action)[0] for envs, action in zip((ours, theirs), actions, strict=True)]
        assert observations[0] in ours.observation_space
    same(*(envs.reset(seed=[3, 1, 2]) for envs in (ours, theirs)))
    same(*(envs.reset(options={"prompt": "a blue ball"}) for envs in (ours, theirs)))


def test_groups_are_what_single_environments_with_their_seeds_give(make, make_vec):
    envs = make_vec()
    policy = FlowPolicy.from_env(envs, seed=20)
    observations, _ = envs.reset(seed=7)
    for _ in range(3):
        observations, _, terminated, _, infos = envs.step(policy(observations))
    assert terminated.all()
    for slot in range(3):
        env = make()
        alone = FlowPolicy.from_env(env, seed=20 + slot)
        observation, _ = env.reset(seed=7 + slot)
        for _ in range(3):
            observation, *_, info = env.step(alone(observation))
        np.testing.assert_array_equal(infos["samples"][slot], info["samples"])
        assert infos["prompt"][slot] == info["prompt"]
    assert infos["samples"].shape == (3, 2, 32, 32, 3)
    assert infos["_samples"].all()


def test_next_step_ignores_the_action_of_ended_groups(make_vec):
    envs = make_vec()
    observations, _ = envs.reset(seed=0)
    for _ in range(3):
        observations, *_ = envs.step(observations["latents"])
    observations, rewards, terminated, _, infos = envs.step(np.full_like(observations["latents"], np.nan))
    assert not terminated.any()
    assert (observations["sigma"] == envs.sigmas[0]).all()
    assert "samples" not in infos
    assert rewards.tolist() == [0, 0, 0]


def test_same_step_hands_the_ended_episode_over(make_vec):
    envs = make_vec(autoreset_mode="SameStep")
    observations, _ = envs.reset(seed=0)
    for _ in range(3):
        observations, _, terminated, _, infos = envs.step(observations["latents"])
    assert terminated.all()
    assert infos["final_info"]["samples"].shape == (3, 2, 32, 32, 3)
    assert infos["final_obs"][1]["sigma"] == 0
    assert (observations["sigma"] == envs.sigmas[0]).all()


def test_without_autoreset_groups_wait_and_begin_by_mask(make_vec):
    envs = make_vec(autoreset_mode=AutoresetMode.DISABLED)
    observations, _ = envs.reset(seed=0)
    for _ in range(3):
        observations, _, terminated, _, _ = envs.step(observations["latents"])
    with pytest.raises(ActionError, match="reset"):
        envs.step(observations["latents"])
    mask = np.array([True, False, True])
    options = {"reset_mask": mask, "prompt": PROMPTS}
    after, infos = envs.reset(seed=5, options=options)
    assert set(options) == {"reset_mask", "prompt"}, "the caller's options stay his"
    assert after["prompt"] == (PROMPTS[0], observations["prompt"][1], PROMPTS[2])
    np.testing.assert_array_equal(after["latents"][1], observations["latents"][1])
    assert after["sigma"][:, 0].tolist() == [envs.sigmas[0], 0.0, envs.sigmas[0]]
    assert infos["_prompt"].tolist() == mask.tolist()


def test_ragged_groups_are_moved_each_from_its_own_noise_level(make_vec):
    envs = make_vec(autoreset_mode=AutoresetMode.DISABLED)
    policy = FlowPolicy.from_env(envs, seed=0)
    observations, _ = envs.reset(seed=0)
    observations, *_ = envs.step(policy(observations))
    observations, _ = envs.reset(options={"reset_mask": np.array([False, True, False])})
    observations, *_ = envs.step(policy(observations))
    assert observations["sigma"][:, 0].tolist() == [envs.sigmas[2], envs.sigmas[1], envs.sigmas[2]]


@pytest.mark.parametrize("family", ["NaN in one group", "one group too few"])
def test_a_refused_action_changes_nothing(make_vec, family):
    envs = make_vec()
    observations, _ = envs.reset(seed=0)
    bad = observations["latents"].copy()
    bad[1, 0, 0, 0, 0] = np.nan
    with pytest.raises(ActionError):
        envs.step(bad if family == "NaN in one group" else bad[:2])
    after = envs.step(observations["latents"])[0]
    assert (after["sigma"] == envs.sigmas[1]).all()


def test_prompts_can_be_chosen_for_each_group(make_vec):
    envs = make_vec()
    assert envs.reset(options={"prompt": PROMPTS})[0]["prompt"] == tuple(PROMPTS)
    with pytest.raises(ConfigError, match="expected 3 prompts"):
        envs.reset(options={"prompt": PROMPTS[:2]})
    with pytest.raises(ConfigError, match="expected 3 seeds"):
        envs.reset(seed=[1, 2])
    with pytest.raises(ConfigError, match="reset_mask"):
        envs.reset(options={"reset_mask": np.zeros(3, bool)})


def test_random_generators_are_those_of_the_groups(make_vec):
    ours, theirs = make_vec(), make_vec(vectorization_mode="sync")
    for envs in (ours, theirs):
        envs.reset(seed=4)
    assert ours.np_random_seed == theirs.np_random_seed == (4, 5, 6)
    assert [rng.random() for rng in ours.np_random] == [rng.random() for rng in theirs.np_random]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"autoreset_mode": "SameStp"}, UnknownNameError, "Did you mean 'SameStep'"),
        ({"num_envs": 0}, ConfigError, "num_envs"),
        ({"group_size": 1}, ConfigError, "at least 2"),
        ({"previw": True}, UnknownNameError, "Did you mean 'preview'"),
    ],
)
def test_arguments_that_cannot_work_are_refused(make_vec, arguments, error, message):
    with pytest.raises(error, match=message):
        make_vec(**arguments)


def test_render_gives_a_picture_for_each_group(make_vec):
    envs = make_vec(render_mode="rgb_array")
    envs.reset(seed=0)
    pictures = envs.render()
    assert len(pictures) == 3
    assert pictures[0].dtype == np.uint8
    with pytest.warns(UserWarning, match="render_mode"):
        assert make_vec().render() is None


def test_generator_is_shared(make_vec):
    assert make_vec().unwrapped.generator is shared("sd3")
