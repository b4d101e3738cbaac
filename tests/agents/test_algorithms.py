"""Every algorithm: one replay of a rollout gives a loss of each sample, with a gradient, and exact ratios."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from flexgym import FlowPolicy
from flexgym.algorithm.base import algorithm_class
from flexgym.algorithm.process import ForwardProcess, SamplerSteps
from flexgym.algorithm.replay import assemble, copies_to_ask, replay, replay_means
from flexgym.algorithm.rollout import collect
from flexgym.reward import Reward
from flexgym.types import GroupScores
from tests.agents.small import METRICS, largest_difference, rewarded_by, small_config, train, weights
from tests.generators.tiny import PROMPTS, fresh

UNIFORM = {"source": "uniform", "count": 2, "shared": True}
VARIANTS = {
    "grpo": {"name": "grpo"},
    "dance": {"name": "grpo", "noise": "dance", "step_weight": "std"},
    "precise": {"name": "grpo", "noise": "precise", "step_weight": "std/K"},
    "guard": {"name": "grpo", "noise": "flow", "ratio": "guarded"},
    "sequence": {"name": "grpo", "ratio": "sequence", "step_weight": "std/h"},
    "dppo": {"name": "flow_dppo"},
    "matching": {"name": "matching"},
    "awm": {"name": "matching", "weight": "ghuber", "penalties": {"trailing": {"coeff": 1.0, "form": "velocity"}}},
    "drawn_levels": {"name": "matching", "levels": {"source": "logit_normal", "count": 3}, "stacked": True},
    "v_grpo": {"name": "v_grpo"},
    "v_grpo_kl": {"name": "v_grpo", "clip_range": None, "penalties": {"old": {"coeff": 0.3, "form": "clean"}}},
    "nft": {"name": "diffusion_nft"},
    "nft_lagging": {"name": "diffusion_nft", "old": "capped"},
    "dpo": {"name": "online_dpo"},
    "dpo_all": {"name": "online_dpo", "pairs": "all", "levels": UNIFORM},
    "dgpo": {"name": "dgpo", "levels": UNIFORM},
    "dgpo_clipped": {"name": "dgpo", "clip_range": 0.05, "levels": UNIFORM},
    "covariance": {"name": "covariance_guidance"},
    "reward_weighted": {"name": "reward_weighted", "form": "exponential"},
    "best_of_n": {"name": "best_of_n", "levels": UNIFORM},
}
WINDOW = {"size": 2, "strategy": "random", "first": [0, 1]}


def algorithm_of(variant):
    settings = {"window": WINDOW, **VARIANTS[variant]}
    cls = algorithm_class(settings["name"])
    return cls(cls.Settings.parse(settings, "algorithm"))


@pytest.fixture(scope="module")
def generator():
    generator = fresh("sd3").with_settings(num_steps=4)
    generator.weights.add_lora(rank=4)
    for name in ("old", "trailing"):
        generator.weights.keep(name)
    return generator


def rollout_of(generator, algorithm):
    envs = gym.make_vec(
        "FlexT2I-v0",
        num_envs=2,
        vectorization_mode="vector_entry_point",
        generator=generator,
        group_size=3,
        prompts=PROMPTS,
        autoreset_mode=gym.vector.AutoresetMode.DISABLED,
    )
    policy = FlowPolicy(generator, algorithm.process, groups_per_forward=2)
    window = algorithm.windows(policy.num_steps).at(0, seed=0)
    return policy, collect(envs, policy, window, seeds=[3, 4], keep=algorithm.requires)


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_sample_has_a_loss_with_a_gradient_and_ratios_start_at_one(variant, generator):
    algorithm = algorithm_of(variant)
    policy, rollout = rollout_of(generator, algorithm)
    levels = range(algorithm.process.count(rollout.window))
    advantages = torch.tensor([[1.0, -0.5, -0.5], [0.2, 0.3, -0.5]])
    for parameter in generator.weights.trained().values():
        parameter.grad = None
    for indices in [tuple(levels)] if algorithm.stacked else [(index,) for index in levels]:
        replayed = replay(policy, rollout, indices, advantages=advantages, needs=algorithm.requires)
        loss = algorithm.objective(replayed)
        assert loss.per_sample.shape == (len(indices), 2, 3)
        assert loss.per_sample.isfinite().all()
        loss.per_sample.mean().backward()
        for name, metric in loss.metrics.items():
            assert metric.value == 0.0 or "log_ratio" not in name
            assert metric.value == 0.0 or not name.startswith("penalty/")
    norms = [parameter.grad.norm().item() for parameter in generator.weights.trained().values()]
    assert max(norms) > 0.0
    assert all(torch.tensor(norms).isfinite())


class Forwards:
    """Records each forward of a transformer: the weights, the latents and the time, and whether it has gradients."""

    def __init__(self, generator):
        self.generator, self.with_gradients, self.without = generator, [], []
        self.hook = generator.pipe.transformer.register_forward_pre_hook(self.record, with_kwargs=True)

    def record(self, module, args, given):
        key = [self.generator.weights._active]
        key += [given[name].detach().numpy().tobytes() for name in ("hidden_states", "timestep")]
        (self.with_gradients if torch.is_grad_enabled() else self.without).append(tuple(key))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_first_update_computes_no_forward_twice(variant, generator):
    algorithm = algorithm_of(variant)
    policy, rollout = rollout_of(generator, algorithm)
    seen = Forwards(generator)
    levels = range(algorithm.process.count(rollout.window))
    jobs = [tuple(levels)] if algorithm.stacked else [(index,) for index in levels]
    for indices in jobs:
        replay(policy, rollout, indices, advantages=torch.ones(2, 3), needs=algorithm.requires)
    seen.hook.remove()
    others = {need for need in algorithm.requires if need.endswith("_mean")} - {"old_mean"}
    # levels of the sampler take one forward each, with as many rows as in the rollout
    forwards = len(levels) if isinstance(algorithm.process, SamplerSteps) else len(jobs)
    assert len(seen.with_gradients) == forwards
    assert len(seen.without) == forwards * len(others)
    every = [*seen.with_gradients, *seen.without]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize(
    "variant", [name for name in VARIANTS if isinstance(algorithm_of(name).process, ForwardProcess)]
)
def test_a_copy_of_the_weights_that_sampled_says_what_they_say_themselves(variant, generator):
    algorithm = algorithm_of(variant)
    policy, rollout = rollout_of(generator, algorithm)
    trained = policy.process.trained(rollout, [0, 1] if algorithm.stacked else [0], policy.grid)
    asked = copies_to_ask({*algorithm.requires, "old_mean"}, trained, fresh=False)
    assert "old" in asked
    means = replay_means(
        policy,
        trained.latents,
        prompts=rollout.prompts,
        levels=trained.levels,
        under=asked,
        guidance=algorithm.guidance,
    )
    assert torch.equal(means["old_mean"], means["mean"])


@pytest.fixture
def moved(generator):
    """The generator after an optimizer step, with the weights that sampled as its copy ``old``."""
    trained = generator.weights.trained().values()
    before = [parameter.detach().clone() for parameter in trained]
    with torch.no_grad():
        for number, parameter in enumerate(trained):
            parameter += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
    yield generator
    with torch.no_grad():
        for parameter, value in zip(trained, before, strict=True):
            parameter.copy_(value)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if algorithm_of(name).skips_dead])
def test_groups_without_advantages_leave_no_gradient_wherever_the_weights_are(variant, moved):
    algorithm = algorithm_of(variant)
    with moved.weights.using("old"):
        policy, rollout = rollout_of(moved, algorithm)
    trained = policy.process.trained(rollout, [0, 1] if algorithm.stacked else [0], policy.grid)
    means = replay_means(
        policy,
        trained.latents,
        prompts=rollout.prompts,
        levels=trained.levels,
        under=copies_to_ask(algorithm.requires, trained, fresh=False),
        guidance=algorithm.guidance,
    )
    for scale in (1.0, 0.0):
        for parameter in moved.weights.trained().values():
            parameter.grad = None
        advantages = scale * torch.tensor([[1.0, -0.5, -0.5], [0.2, 0.3, -0.5]])
        replayed = assemble(policy, means, trained, advantages=advantages, needs=algorithm.requires)
        algorithm.loss(replayed).per_sample.mean().backward(retain_graph=True)
        gradients = [parameter.grad.abs().max() for parameter in moved.weights.trained().values()]
        assert (float(max(gradients)) > 0.0) == bool(scale)


def test_a_penalty_needs_the_groups_without_advantages():
    penalties = {"reference": {"coeff": 0.1}}
    assert not algorithm_class("grpo").from_settings(penalties=penalties).skips
    assert algorithm_class("grpo").from_settings(penalties={"reference": {"coeff": 0.0}}).skips
    assert not algorithm_class("diffusion_nft").from_settings(penalties={}).skips


class HalfDead(Reward):
    """Scores the samples of every second group by their pixels, and those of the others alike."""

    calls = 0

    def score(self, groups):
        scores = []
        for group in groups:
            type(self).calls += 1
            means = np.array([sample.mean() for sample in group.samples], np.float32)
            scores.append(GroupScores(means if self.calls % 2 else np.zeros_like(means)))
        return scores


@pytest.mark.parametrize("name", ["grpo", pytest.param("dgpo", marks=pytest.mark.slow)])
def test_an_update_without_dead_groups_is_the_same_to_the_bit(name, cluster, monkeypatch):
    """Skipped forwards are complete, so no other changes its rows, and zeros add nothing to gradients."""
    found = []
    for skips in (True, False):
        monkeypatch.setattr(algorithm_class(name), "skips_dead", skips)
        monkeypatch.setattr(HalfDead, "calls", 0)
        config = small_config(
            algorithm={"name": name},
            rollout={"prompts_per_iteration": 4},
            training={"num_updates": 2, "passes": 2},
        )
        algorithm, metrics = train(rewarded_by(HalfDead, config), 2)
        found.append(weights(algorithm))
        algorithm.stop()
        assert metrics["reward/dead_groups"] == 0.5
        if skips and name == "grpo":  # two levels of two groups in a step, whose last forward is always replayed
            assert 0.25 <= metrics["policy/skipped_replays"] < 0.5
    assert largest_difference(*found) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("mode", ["full", "lora"])
def test_training_resumes_exactly_with_several_passes_over_a_rollout(variant, mode, cluster, tmp_path: Path):
    config = small_config(
        algorithm={**VARIANTS[variant], "window": WINDOW},
        generator={"mode": mode},
        training={"passes": 2, "ema_decay": 0.9},
    )
    algorithm, first = train(config, 2)
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    expected_metrics, expected = algorithm.train()[METRICS], weights(algorithm)
    algorithm.stop()
    resumed = config.copy(copy_frozen=False).build_algo()
    resumed.restore_from_path(str(tmp_path / "checkpoint"))
    metrics = resumed.train()[METRICS]
    assert largest_difference(weights(resumed), expected) == 0.0
    loss = "loss/policy" if "loss/policy" in metrics else "loss/matching"
    assert metrics[loss] == expected_metrics[loss]
    if "policy/max_abs_log_ratio" in metrics:  # the second pass compares with weights that have moved
        assert first["policy/max_abs_log_ratio"] > 0.0
    resumed.stop()
