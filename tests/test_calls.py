"""How many functions of this project a denoising step enters."""

from __future__ import annotations

import sys
from pathlib import Path

import gymnasium as gym
import pytest

from flexgym import FlowPolicy
from flexgym.algorithm.process import ForwardProcess, SamplerSteps
from flexgym.flow import noise_scale

ROOT = Path(__file__).resolve().parents[1]
OWN = str(ROOT / "flexgym")


def own_calls(call):
    """What ``call`` returns, and the calls of own functions in it."""
    count = 0

    def profile(frame, event, argument):
        nonlocal count
        count += event == "call" and frame.f_code.co_filename.startswith(OWN)

    sys.setprofile(profile)
    try:
        found = call()
    finally:
        sys.setprofile(None)
    return found, count


@pytest.mark.parametrize(
    ("process", "most"), [(ForwardProcess(), 42), (SamplerSteps(noise_scale("cps")), 52)], ids=["ode", "cps"]
)
def test_a_denoising_step_of_training_enters_few_own_functions(process, most):
    """Acting alone at most 40; with the environment's step, which a noisy step shares with its density, a few more."""
    envs = gym.make_vec("FlexT2I-v0", num_envs=8, group_size=2, tensors=True, autoreset_mode="Disabled")
    policy = FlowPolicy(envs.unwrapped.generator, process, groups_per_forward=8)
    observation, _ = envs.reset(seed=0)
    observation, *_ = envs.step(policy.act(observation).latents)  # encodes the prompts
    move, acting = own_calls(lambda: policy.act(observation))
    _, stepping = own_calls(lambda: envs.step(move.latents))
    assert acting <= 40
    assert acting + stepping <= most
