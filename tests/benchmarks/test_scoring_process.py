"""A forward beside a reward in pure Python: in a thread it waits for the interpreter lock, in a process it does not.

``pytest -m benchmark -s tests/benchmarks/test_scoring_process.py`` prints both ratios; it takes two idle cores.
"""

from __future__ import annotations

import time
from statistics import median

import numpy as np
import pytest
import torch

from flexgym import rewards
from flexgym.generators import load_generator
from flexgym.shapes.sampling import draw_group
from flexgym.types import Prompt

pytestmark = pytest.mark.benchmark
GROUPS, GROUP_SIZE, ROWS, ROUNDS, LIMIT = 64, 16, 16, 8, 1.3


@pytest.fixture(scope="module")
def forward():
    generator = load_generator("shapes-t2i")
    text = dict(generator.condition([Prompt("a red circle")]).repeat(ROWS).prompts)
    latents, timestep = generator.initial_latents(ROWS, 0), torch.full((ROWS,), 500.0)

    @torch.no_grad()
    def seconds():
        started = time.perf_counter()
        generator.pipe.transformer(hidden_states=latents, timestep=timestep, return_dict=False, **text)
        return time.perf_counter() - started

    return seconds


def beside(forward, own_process):
    """Seconds of the forwards that begin and end while a reward scores."""
    groups = [draw_group(np.random.default_rng(seed), GROUP_SIZE) for seed in range(GROUPS)]
    reward = rewards.make("ShapesOracle", own_process=own_process)
    reward.submit(groups[:1]).result()
    found = []
    for _ in range(ROUNDS):
        scoring = reward.submit(groups)
        while not scoring.done():
            found.append(forward())
        found.pop()
    reward.close()
    return found


def test_a_forward_beside_a_reward_is_hardly_slower(forward):
    forward()
    alone = median(forward() for _ in range(20))
    ratios = {name: median(beside(forward, own)) / alone for name, own in (("thread", False), ("process", True))}
    print(f"\na forward takes {1000 * alone:.1f} ms; beside a reward in a thread {ratios['thread']:.2f} times as long,")
    print(f"in a process {ratios['process']:.2f} times as long")
    assert ratios["process"] < LIMIT
    assert ratios["process"] < ratios["thread"]
