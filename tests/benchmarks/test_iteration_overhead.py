"""An iteration of Pref-GRPO against the bare work in it, both in one process.

``pytest -m benchmark -s tests/benchmarks/test_iteration_overhead.py`` prints the ratio.
"""

from __future__ import annotations

import time

import pytest
import torch

from agents.pref_grpo import PrefGRPO
from flexgym.config.recipe import load_recipe
from flexgym.rllib.learner import FlowLearner
from flexgym.rllib.recipe import apply_recipe
from flexgym.types import Prompt, SampleGroup

pytestmark = [pytest.mark.slow, pytest.mark.benchmark]
REPEATS = 12


@pytest.fixture
def algorithm(cluster):
    recipe = load_recipe("pref_grpo_shapes_t2i.yaml")
    del recipe["run"]
    config = apply_recipe(PrefGRPO.get_default_config(), recipe)
    config.verification(interval=0)
    algorithm = config.build_algo()
    yield algorithm
    algorithm.stop()


def bare_work(learner: FlowLearner, prompts: list[Prompt]) -> float:
    """Seconds for the forwards, backwards, decoding and judging of one iteration, and for nothing else."""
    config, generator = learner.config, learner.generator
    transformer, rows = generator.pipe.transformer, config.groups_per_forward * config.group_size
    chunks = [
        prompts[start : start + config.groups_per_forward]
        for start in range(0, len(prompts), config.groups_per_forward)
    ]
    sigmas, latents = generator.sigmas(), generator.initial_latents(rows, 0)
    text = [dict(generator.condition(chunk).repeat(config.group_size).prompts) for chunk in chunks]
    reward = config.make_reward()

    def forward(step: int, conditioning: dict[str, torch.Tensor]) -> torch.Tensor:
        timestep = (sigmas[step] * 1000.0).expand(rows)
        return transformer(hidden_states=latents, timestep=timestep, return_dict=False, **conditioning)[0]

    trained = range(config.window["size"])
    # Matching asks once more for the density of the finished samples, and a divergence for the reference's step.
    again = config.noise.to_clean + (config.kl_coeff > 0)
    without_gradient = [*range(len(sigmas) - 1), *(list(trained) * again)]

    started = time.perf_counter()
    with torch.no_grad():
        for conditioning in text:
            for step in without_gradient:
                forward(step, conditioning)
    samples = [generator.decode(latents[: config.group_size]) for _ in prompts]
    reward.score([SampleGroup(prompt, group) for prompt, group in zip(prompts, samples, strict=True)])
    for conditioning in text:
        for step in trained:
            forward(step, conditioning).square().mean().backward()
    return time.perf_counter() - started


def test_an_iteration_costs_at_most_1_15_times_its_bare_work(algorithm, capsys):
    algorithm.train()
    learner = algorithm.learner_group._learner
    whole, bare = [], []
    for _ in range(REPEATS):
        prompts = algorithm.config.held_out_prompts()[: algorithm.config.prompts_per_iteration]
        bare.append(bare_work(learner, prompts))
        started = time.perf_counter()
        algorithm.train()
        whole.append(time.perf_counter() - started)
    # Other work on a shared machine only ever adds time, so the least of each, taken in turns, is nearest to its cost.
    ratio = min(whole) / min(bare)
    with capsys.disabled():
        print(f"\niteration {min(whole):.2f} s, bare work {min(bare):.2f} s, ratio {ratio:.3f}")
    assert ratio <= 1.15
