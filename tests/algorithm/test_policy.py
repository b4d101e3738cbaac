from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest
import torch

import flexgym
from flexgym import FlowPolicy
from flexgym.algorithm.process import ForwardProcess
from flexgym.algorithm.replay import replay
from flexgym.algorithm.rollout import collect
from flexgym.core.errors import ConfigError, GeneratorError, UnknownNameError
from flexgym.flow import FlowSDE, Window, transition
from tests.generators.tiny import PROMPTS, shared


@pytest.fixture
def env():
    return gym.make("FlexT2I-v0", generator=shared("sd3"), group_size=2, prompts=PROMPTS)


def run(env, policy, steps=3):
    observation, _ = env.reset(seed=0)
    for _ in range(steps):
        observation, *_ = env.step(policy(observation))
    return observation["latents"]


def test_action_is_the_next_latents(env):
    action = FlowPolicy.from_env(env, seed=0)(env.reset(seed=0)[0])
    assert action.dtype == np.float32
    assert action in env.action_space


def test_a_seed_decides_the_noise(env):
    first, second, other = (run(env, FlowPolicy.from_env(env, seed=seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
    unseeded = [run(env, FlowPolicy.from_env(env)) for _ in range(2)]
    assert not np.array_equal(*unseeded)


def test_a_step_is_the_transition_of_the_kernel(env):
    generator, observation = shared("sd3"), env.reset(seed=0)[0]
    ours = FlowPolicy.from_env(env, noise=FlowSDE(eta=0.5), seed=3)(observation)
    latents, sigmas = torch.from_numpy(observation["latents"]), generator.sigmas()
    conditioning = generator.condition([observation["prompt"]]).repeat(2)
    before, after = sigmas[0].expand(2), sigmas[1].expand(2)
    velocity = generator.velocity(latents, before, conditioning)
    gaussian = transition(
        latents, velocity, before, sigma_next=after, noise=FlowSDE(eta=0.5), sigma_max=float(sigmas[1])
    )
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(3))
    np.testing.assert_array_equal(ours, gaussian.sample(noise).numpy())


def test_without_noise_every_seed_gives_the_same(env):
    np.testing.assert_array_equal(*(run(env, FlowPolicy.from_env(env, noise="ode", seed=seed)) for seed in (1, 2)))


def test_the_last_step_adds_no_noise(env):
    observation, _ = env.reset(seed=0)
    for _ in range(2):
        observation, *_ = env.step(observation["latents"])
    np.testing.assert_array_equal(*(FlowPolicy.from_env(env, seed=seed)(observation) for seed in (1, 2)))


def test_the_forward_process_samples_without_noise_and_trains_the_finished_sample():
    envs = gym.make_vec("FlexT2I-v0", num_envs=2, generator=shared("sd3"), group_size=2, prompts=PROMPTS)
    by_matching, by_ode = FlowPolicy(shared("sd3"), ForwardProcess()), FlowPolicy.from_env(envs, noise="ode")
    seeds, window = [3, 4], Window(0, 3)  # the last step as well
    rollout = collect(envs, by_matching, window, seeds=seeds)
    observation, _ = envs.reset(seed=seeds)
    for _ in range(3):
        observation, *_ = envs.step(by_ode(observation))
    clean = torch.from_numpy(observation["latents"])
    prompts, sigmas = [prompt.text for prompt in rollout.prompts], shared("sd3").sigmas()
    assert list(rollout.kept) == ["target"]
    assert torch.equal(rollout.kept["target"][0], clean)
    for at, step in enumerate(window.steps):
        trained = by_matching.process.trained(rollout, [at], sigmas)
        assert torch.equal(trained.target[0], clean)
        assert (trained.levels.sigma == sigmas[step]).all()
        noise = (trained.latents[0] - (1.0 - sigmas[step]) * clean) / sigmas[step]
        assert noise.mean().item() == pytest.approx(0.0, abs=0.2)
        assert noise.std().item() == pytest.approx(1.0, abs=0.2)
        replayed = replay(by_matching, rollout, [at], advantages=torch.ones(2, 2), needs={"old_log_prob"})
        expected = [
            by_matching.transition(trained.latents[0, [row]], prompts[row : row + 1], step).log_prob(clean[row])
            for row in range(2)
        ]
        torch.testing.assert_close(replayed.old_log_prob[0], torch.stack(expected))
        assert (replayed.log_ratio == 0.0).all()
    again = by_matching.process.trained(collect(envs, by_matching, window, seeds=seeds), [1], sigmas)
    assert torch.equal(again.latents, by_matching.process.trained(rollout, [1], sigmas).latents)
    assert not torch.equal(again.latents, by_matching.process.trained(rollout, [1], sigmas, draw=1).latents)


def test_finished_groups_come_back_unchanged(env):
    observation, _ = env.reset(seed=0)
    for _ in range(3):
        observation, *_ = env.step(observation["latents"])
    action = FlowPolicy.from_env(env, seed=1)(observation)
    np.testing.assert_array_equal(action, observation["latents"])
    assert not np.shares_memory(action, observation["latents"])


def test_the_observation_is_left_alone(env):
    observation, _ = env.reset(seed=0)
    kept = observation["latents"].copy()
    observation["latents"].flags.writeable = False
    FlowPolicy.from_env(env, seed=1)(observation)
    np.testing.assert_array_equal(observation["latents"], kept)


def test_what_a_policy_cannot_act_in_is_refused(env):
    with pytest.raises(GeneratorError, match="FlexGym environment"):
        FlowPolicy.from_env(gym.make("CartPole-v1"))
    with pytest.raises(UnknownNameError, match="noise scale"):
        FlowPolicy.from_env(env, noise="flo")
    other = gym.make("FlexT2I-v0", generator=shared("sd3"), group_size=2, prompts=PROMPTS, num_steps=4)
    between = env.step(env.reset(seed=0)[0]["latents"])[0]
    with pytest.raises(ConfigError, match="not on the generator's grid of 4"):
        FlowPolicy.from_env(other)(between)


def test_unknown_attribute_of_the_package():
    with pytest.raises(AttributeError, match="FlowPolice"):
        flexgym.FlowPolice  # noqa: B018
