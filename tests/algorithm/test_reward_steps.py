"""Reward gradients: replaying detached steps has the gradient of one graph through steps, decoder and reward."""

from __future__ import annotations

from functools import cache

import gymnasium as gym
import numpy as np
import pytest
import torch

import flexgym  # noqa: F401  (registers the environments)
from flexgym import FlowPolicy, rewards
from flexgym.algorithm.base import algorithm_class, check_needs
from flexgym.algorithm.process import ForwardProcess
from flexgym.algorithm.replay import replay
from flexgym.algorithm.reward_steps import RewardSteps, with_reward_gradient
from flexgym.algorithm.rollout import collect
from flexgym.core.errors import ConfigError
from flexgym.flow import Replays, Window, draft_lv_replays, drtune_replays, refl_replays, sparse_replays
from flexgym.generators import load_generator

PROMPTS = ["a red circle", "a blue square", "three green triangles"]
STEPS, SEEDS = 4, [3, 4]


class Waves(rewards.PointwiseReward):
    """A smooth reward of pixels and text, without a model."""

    def score_samples(self, prompt, samples):
        return np.zeros(len(samples))

    def gradient_scores(self, pixels, prompts):
        wanted = torch.tensor([len(prompt.text) / 20 for prompt in prompts])
        return -(pixels.clamp(0, 1).sin().mean((1, 2, 3)) - wanted).square()


@cache
def embedded():
    generator = load_generator("shapes-t2i", num_steps=STEPS)
    generator.weights.add_lora(rank=2, seed=1)
    for name, parameter in generator.weights.trained().items():
        torch.nn.init.normal_(parameter, std=0.05, generator=torch.Generator().manual_seed(len(name)))
    return generator


def rolled_out(algorithm, replays, **options):
    envs = gym.make_vec(
        "FlexT2I-v0",
        num_envs=2,
        vectorization_mode="vector_entry_point",
        generator=embedded(),
        group_size=2,
        prompts=PROMPTS,
        autoreset_mode=gym.vector.AutoresetMode.DISABLED,
    )
    policy = FlowPolicy(embedded(), algorithm.process, groups_per_forward=2, **options)
    return policy, collect(envs, policy, replays, seeds=SEEDS, keep=algorithm.requires)


def algorithm_of(name, **settings):
    cls = algorithm_class(name)
    return cls(cls.Settings.parse(settings, "algorithm"))


def gradients():
    found = {name: parameter.grad.clone() for name, parameter in embedded().weights.trained().items()}
    for parameter in embedded().weights.trained().values():
        parameter.grad = None
    return found


def by_replay(algorithm, replays):
    policy, rollout = rolled_out(algorithm, replays)
    rollout, scores = with_reward_gradient(policy, Waves(), rollout)
    advantages = torch.zeros(2, 2)
    for index in range(len(replays)):
        replayed = replay(policy, rollout, [index], advantages=advantages, needs=algorithm.requires)
        (algorithm.objective(replayed).per_sample.mean() / len(replays)).backward()
    return gradients(), torch.from_numpy(np.stack([group.rewards for group in scores])).flatten()


def path():
    """Prompts, and the latents before each step and at the end, ``[T + 1, B, ...]``."""
    _, rollout = rolled_out(algorithm_of("flow_bp"), Replays(tuple(range(STEPS)), stop=STEPS - 1))
    latents, after = rollout.kept["latents"].flatten(1, 2), rollout.kept["target"].flatten(1, 2)
    return [prompt for prompt in rollout.prompts for _ in range(2)], torch.cat([latents, after[-1:]])


def chain(replays, threshold):
    """One graph from the weights over detached inputs to the mean loss, as in `docs/algorithms.md`."""
    generator, (prompts, latents) = embedded(), path()
    grid, conditioning = generator.sigmas(), generator.condition(prompts)

    def velocity(x, step):
        return generator.velocity(x.detach(), grid[step].expand(len(x)), conditioning, guidance=None)

    stop, scored = replays.stop, []
    x = latents[0]
    for step in range(stop):
        move = (grid[step + 1] - grid[step]) * velocity(latents[step], step)
        x = x + (move if step in replays.steps else move.detach())
    last = velocity(latents[stop], stop)
    scored.append(x - grid[stop] * (last if stop in replays.steps else last.detach()))
    clean = latents[-1]
    noise = [
        torch.randn((replays.copies, 2, *clean.shape[1:]), generator=torch.Generator().manual_seed(seed))
        for seed in SEEDS
    ]
    for copy in torch.cat(noise, 1) if replays.copies else []:
        noised = (1 - grid[stop]) * clean + grid[stop] * copy
        scored.append(noised - grid[stop] * velocity(noised, stop))
    decode = generator.autoencoder.decode_pixels
    scores = torch.stack([Waves().gradient_scores(decode(each), prompts) for each in scored])
    losses = -scores if threshold is None else (threshold - scores).relu()
    losses.mean().backward()
    return gradients(), scores.detach().mean(0)


CASES = {
    "refl": (algorithm_of("refl"), refl_replays(2)),
    "refl_last": (algorithm_of("refl"), refl_replays(3)),
    "draft_lv": (algorithm_of("draft_lv"), draft_lv_replays(STEPS, copies=2)),
    "drtune": (algorithm_of("drtune", threshold=-0.03), drtune_replays((0, 2), stop=2)),
    "drtune_before": (algorithm_of("drtune"), drtune_replays((0, 1), stop=2)),
    "flow_bp": (algorithm_of("flow_bp"), sparse_replays(STEPS, (1, 3), rescale=0.0)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_gradient_is_that_of_one_graph_through_everything(case):
    algorithm, replays = CASES[case]
    expected, scores = chain(replays, algorithm.settings.threshold)
    found, rewarded = by_replay(algorithm, replays)
    torch.testing.assert_close(rewarded, scores, rtol=1e-4, atol=1e-6)
    largest = max(float(gradient.abs().max()) for gradient in expected.values())
    assert largest > 1e-6
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-3 * largest)


def test_sparse_steps_make_up_for_the_others():
    algorithm, (plain, _) = algorithm_of("flow_bp"), by_replay(*CASES["flow_bp"])
    found, _ = by_replay(algorithm, sparse_replays(STEPS, (1, 3), rescale=0.5))
    grid = embedded().sigmas()
    covered = float(grid[1] - grid[2] + grid[3] - grid[4])
    factor = 1.0 + 0.5 * (float(grid[0] - grid[4]) / covered - 1.0)
    assert factor > 1.05
    for name, gradient in plain.items():
        torch.testing.assert_close(found[name], factor * gradient, rtol=1e-4, atol=1e-9)


def test_replays_see_what_was_scored():
    for case, exact in (("refl", True), ("draft_lv", False)):
        algorithm, replays = CASES[case]
        policy, rollout = rolled_out(algorithm, replays)
        rollout, _ = with_reward_gradient(policy, Waves(), rollout)
        for index in range(len(replays)):
            replayed = replay(policy, rollout, [index], advantages=torch.zeros(2, 2), needs=algorithm.requires)
            assert torch.equal(replayed.mean, replayed.target) or (index == 0 and not exact)
            torch.testing.assert_close(replayed.mean, replayed.target)


class Broken(Waves):
    """No number for the prompts with a triangle."""

    def gradient_scores(self, pixels, prompts):
        factor = torch.tensor([torch.nan if "triangle" in prompt.text else 1.0 for prompt in prompts])
        return factor * super().gradient_scores(pixels, prompts)


def test_a_sample_without_a_score_has_no_gradient_and_counts_as_a_failure():
    algorithm, replays = CASES["draft_lv"]
    policy, rollout = rolled_out(algorithm, replays)
    rollout, scores = with_reward_gradient(policy, Broken(), rollout)
    failed = ["triangle" in prompt.text for prompt in rollout.prompts]
    assert sorted(failed) == [False, True]
    for index, group in enumerate(scores):
        assert bool(np.isnan(group.rewards).all()) is failed[index]
        assert group.failures == ({"broken": 2} if failed[index] else {})
        norm = float(rollout.kept["reward_gradient"][:, index].norm())
        assert norm == 0.0 if failed[index] else norm > 0.0


def test_latents_may_be_kept_in_half_the_precision():
    algorithm, replays = CASES["drtune"]
    policy, rollout = rolled_out(algorithm, replays, latents_dtype=torch.bfloat16)
    rollout, _ = with_reward_gradient(policy, Waves(), rollout)
    assert rollout.kept["latents"].dtype == torch.bfloat16
    assert rollout.kept["reward_gradient"].dtype == torch.float32
    replayed = replay(policy, rollout, [1], advantages=torch.zeros(2, 2), needs=algorithm.requires)
    torch.testing.assert_close(replayed.mean, replayed.target, rtol=1e-2, atol=1e-2)


def test_what_cannot_work_is_refused():
    algorithm, replays = CASES["refl"]
    policy, rollout = rolled_out(algorithm, replays)
    with pytest.raises(ConfigError, match=r"shapes_verifier: expected a reward with gradients.*ImageReward"):
        with_reward_gradient(policy, rewards.make("ShapesVerifier"), rollout)
    policy, rollout = rolled_out(algorithm, Window(1, 2))
    with pytest.raises(ConfigError, match=r"Replays, got Window.*windows\(num_steps\)"):
        with_reward_gradient(policy, Waves(), rollout)
    with pytest.raises(ConfigError, match="from 0 to 1"):
        RewardSteps().check([refl_replays(2)], torch.tensor([1.0, 0.5, 0.0]))


def test_only_a_process_with_reward_gradients_can_be_asked_for_them():
    class Wrong(type(algorithm_of("refl"))):
        process = ForwardProcess()

    check_needs(algorithm_of("refl"), ())
    with pytest.raises(ConfigError, match="unknown need of Wrong 'reward_gradient'"):
        check_needs(Wrong(algorithm_of("refl").settings), ())
