"""Gymnasium's own vector environments, in this process and in others, over FlexGym's environments."""

from __future__ import annotations

import copy
import pickle

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector.utils import (
    batch_differing_spaces,
    batch_space,
    concatenate,
    create_empty_array,
    create_shared_memory,
    iterate,
    read_from_shared_memory,
    write_to_shared_memory,
)

from flexgym import FlowPolicy, rewards
from flexgym.core.errors import ActionError
from flexgym.envs.spaces import NO_CHARACTER, FloatBox, PromptSpace
from flexgym.generators.loader import load_generator

NAMES = ("FlexT2I-v0", "FlexT2V-v0", "FlexT2IControl-v0", "FlexT2VControl-v0")
TEXTS = ["a red cube", "日本語 on a sign \U0001f600"]
LIMIT_S = 120


def play(envs, policy=None, steps=4, prompt="日本語 🙂 a blue ball"):
    """Reset and step with given prompts; everything that comes back."""
    envs.action_space.seed(3)
    first = envs.reset(seed=5, options={"prompt": prompt})
    found, observations = [first], first[0]
    for _ in range(steps):
        actions = policy(observations) if policy else envs.action_space.sample()
        found.append(envs.step(actions))
        observations = found[-1][0]
        assert observations in envs.observation_space
    return found


def played(mode, name, make_vec, **arguments):
    envs = make_vec(name, vectorization_mode=mode, num_envs=2, num_steps=2, **arguments)
    try:
        return play(envs, None if "Control" in name else FlowPolicy.from_env(envs, seed=4))
    finally:
        envs.close(**({"terminate": True} if mode == "async" else {}))


@pytest.fixture
def two_threads():
    """Threads of OpenMP, alive in this process."""
    torch.set_num_threads(2)
    torch.randn(600, 600) @ torch.randn(600, 600)
    torch.randn(1 << 22).exp().sum()
    yield
    torch.set_num_threads(1)


@pytest.mark.slow
@pytest.mark.parametrize("shared_memory", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_environments_in_other_processes_give_the_same(make_vec, name, shared_memory):
    forked = played("async", name, make_vec, vector_kwargs={"shared_memory": shared_memory, "context": "fork"})
    assert data_equivalence(forked, played("sync", name, make_vec), exact=True)
    assert data_equivalence(forked, played("vector_entry_point", name, make_vec), exact=True)
    if "Control" not in name:
        assert forked[0][0]["prompt"] == ("日本語 🙂 a blue ball",) * 2


@pytest.mark.usefixtures("two_threads")
@pytest.mark.parametrize("shared_memory", [True, False])
def test_a_fork_after_use_with_threads_does_not_hang(make, make_vec, shared_memory):
    env = make(num_steps=2)
    observation, _ = env.reset(seed=0)
    env.step(FlowPolicy.from_env(env, seed=0)(observation))
    envs = make_vec(
        num_envs=2,
        num_steps=2,
        vectorization_mode="async",
        vector_kwargs={"shared_memory": shared_memory, "context": "fork"},
        prompts=TEXTS,
    )
    try:
        envs.reset_async(seed=1)
        observations, _ = envs.reset_wait(timeout=LIMIT_S)
        for _ in range(2):
            envs.step_async(observations["latents"])
            observations, *_, infos = envs.step_wait(timeout=LIMIT_S)
        assert infos["samples"].shape[:2] == (2, 2)
        assert all(text in TEXTS for text in observations["prompt"])
    finally:
        envs.close(terminate=True)


@pytest.mark.slow
@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_started_processes_give_the_same(make_vec, context):
    name = "FlexT2I-v0"
    kwargs = {"shared_memory": context == "spawn", "context": context}
    generator = load_generator("shapes-t2i")
    FlowPolicy.from_env(gym.make(name, generator=generator, num_steps=2, group_size=2), seed=0)
    found = played("async", name, make_vec, vector_kwargs=kwargs, generator=generator)
    assert data_equivalence(found, played("sync", name, make_vec, generator=generator), exact=True)


def test_rewards_work_in_other_processes(make_vec):
    modes = {"async": {"context": "fork"}, "sync": {}}
    found = []
    for mode, kwargs in modes.items():
        envs = make_vec(
            num_envs=2, num_steps=2, vectorization_mode=mode, vector_kwargs=kwargs, wrappers=[rewards.ShapesVerifier]
        )
        found.append(play(envs, steps=2, prompt="a red circle"))
        envs.close()
    assert data_equivalence(*found, exact=True)
    assert found[0][-1][4]["group_rewards"].shape == (2, 2)


@pytest.mark.filterwarnings("ignore:.*ERROR.*:UserWarning")
def test_an_error_in_another_process_teaches(make_vec):
    envs = make_vec(num_envs=2, vectorization_mode="async", vector_kwargs={"context": "fork"})
    try:
        envs.reset()
        with pytest.raises(ActionError, match="must be finite"):
            envs.step(np.full(envs.action_space.shape, np.nan, np.float32))
    finally:
        envs.close(terminate=True)


# --- spaces ----------------------------------------------------------------------------------------------------------


def test_prompts_in_shared_memory_follow_what_is_written():
    space = PromptSpace(40)
    memory = create_shared_memory(space, n=2)
    seen = read_from_shared_memory(space, memory, n=2)
    assert tuple(seen) == ("", "")
    for round_ in (TEXTS, ["b", "\0 \ud800"]):
        for index, text in enumerate(round_):
            write_to_shared_memory(space, index, text, memory)
        assert tuple(seen) == seen[:] == tuple(round_)
        assert seen == tuple(round_)
        assert [*map(len, (seen,))] == [2]
    kept, pickled = copy.deepcopy(seen), pickle.loads(pickle.dumps(seen))
    write_to_shared_memory(space, 0, "x" * 40, memory)
    assert type(kept) is type(pickled) is tuple
    assert kept == pickled == ("b", "\0 \ud800")
    assert seen[0] == "x" * 40
    assert seen in batch_space(space, 2)


def test_batches_of_prompts():
    space = PromptSpace(40)
    batch = batch_space(space, 2)
    assert tuple(TEXTS) in batch
    assert concatenate(space, TEXTS, create_empty_array(space, 2)) == tuple(TEXTS)
    assert list(iterate(batch, tuple(TEXTS))) == TEXTS
    assert batch_differing_spaces([space, PromptSpace(50)]).spaces == (space, PromptSpace(50))
    flat = gym.spaces.flatten(batch, tuple(TEXTS))
    assert gym.spaces.unflatten(batch, flat) == tuple(TEXTS)
    assert flat.max() == NO_CHARACTER


def test_a_vector_may_observe_differing_spaces(make):
    envs = gym.vector.SyncVectorEnv([lambda: make()] * 2, observation_mode="different")
    observations, _ = envs.reset(seed=0)
    assert observations in envs.observation_space


@pytest.mark.parametrize("space", [PromptSpace(30), FloatBox(-1.0, 1.0, (2,))], ids=["prompts", "numbers"])
def test_samples_repeat_with_the_seed(space):
    first = [space.seed(np.int64(3)) and space.sample(), space.sample()]
    again = pickle.loads(pickle.dumps(space))
    assert again == space == copy.deepcopy(space)
    np.testing.assert_array_equal(again.sample(), space.sample())
    again.seed(3)
    np.testing.assert_array_equal([again.sample(), again.sample()], first)
    with pytest.raises(ValueError, match="whole number"):
        space.seed(True)
