"""An iteration of Pref-GRPO against the bare work in it, both in one process.

``pytest -m benchmark -s tests/benchmarks/test_iteration_overhead.py`` prints the ratio.
"""

from __future__ import annotations

import statistics
import time

import pytest
import torch

from flexgym.agents.base import load_agent_settings
from flexgym.config.recipe import apply_overrides, load_recipe
from flexgym.rllib.learner import FlowLearner
from flexgym.types import Prompt, SampleGroup
from tests.agents.small import config_of

pytestmark = [pytest.mark.slow, pytest.mark.benchmark]
GOAL, LIMIT = 1.05, 1.10
FEWEST, USUAL, MOST = 8, 20, 60
"""Rounds: the fewest end at the goal, the usual number at the limit, and more are for a machine with other work."""


@pytest.fixture
def algorithm(cluster):
    recipe = apply_overrides(load_recipe("pref_grpo_shapes_t2i.yaml"), ["verification.interval=0"])
    algorithm = config_of(load_agent_settings(recipe)).build_algo()
    yield algorithm
    algorithm.stop()


def bare_work(learner: FlowLearner, prompts: list[Prompt]) -> float:
    """Seconds for the forwards, backwards, decoding and judging of one iteration, and for nothing else."""
    config, generator = learner.config, learner.generator
    settings = config.settings.rollout
    transformer, size = generator.pipe.transformer, settings.groups_per_forward
    rows = size * settings.group_size
    chunks = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    sigmas, latents = generator.sigmas(), generator.initial_latents(rows, 0)
    text = [dict(generator.condition(chunk).repeat(settings.group_size).prompts) for chunk in chunks]
    reward = config.make_reward()

    def forward(step: int, conditioning: dict[str, torch.Tensor]) -> torch.Tensor:
        timestep = (sigmas[step] * 1000.0).expand(rows)
        return transformer(hidden_states=latents, timestep=timestep, return_dict=False, **conditioning)[0]

    trained = range(config.algorithm.settings.window.size)
    references = "reference_mean" in config.algorithm.requires
    without_gradient = [*range(len(sigmas) - 1), *(list(trained) * references)]

    started = time.perf_counter()
    with torch.no_grad():
        for conditioning in text:
            for step in without_gradient:
                forward(step, conditioning)
    samples = [generator.decode(latents[: settings.group_size]) for _ in prompts]
    reward.score([SampleGroup(prompt, group) for prompt, group in zip(prompts, samples, strict=True)])
    for conditioning in text:
        for step in trained:
            forward(step, conditioning).square().mean().backward()
    return time.perf_counter() - started


def ratio_of(whole: list[float], bare: list[float]) -> float:
    """Estimate the ratio of both, on a machine whose speed changes.

    Of two estimates the lower counts: the ratio of the least of each, which a single lucky round of the bare work
    raises, and the median of the ratios of neighboring rounds, which a change of speed between them raises.
    """
    pairs = zip(whole, bare, strict=True)
    return min(min(whole) / min(bare), statistics.median(one / other for one, other in pairs))


def settled(whole: list[float], bare: list[float]) -> bool:
    if len(whole) < FEWEST:
        return False
    ratio = ratio_of(whole, bare)
    return ratio <= GOAL or (ratio <= LIMIT and len(whole) >= USUAL) or len(whole) >= MOST


def test_an_iteration_costs_little_more_than_its_bare_work(algorithm, capsys):
    algorithm.train()
    learner = algorithm.learner_group._learner
    whole, bare = [], []
    while not settled(whole, bare):
        prompts = algorithm.config.held_out_prompts()[: algorithm.config.settings.rollout.prompts_per_iteration]
        bare.append(bare_work(learner, prompts))
        started = time.perf_counter()
        algorithm.train()
        whole.append(time.perf_counter() - started)
    ratio = ratio_of(whole, bare)
    with capsys.disabled():
        print(f"\niteration {min(whole):.2f} s, bare work {min(bare):.2f} s, ratio {ratio:.3f}, {len(whole)} rounds")
    assert ratio <= LIMIT
