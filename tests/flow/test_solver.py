"""Steps of DPM-Solver++(2M): those of diffusers, and of second order."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from flexgym.flow import dpm_step, linear_sigmas

CENTERS = torch.tensor([[1.0, -0.5], [-0.8, 0.9]], dtype=torch.float64)
WIDTH = 0.6


def predicted(latents, level):
    """The posterior mean of clean samples from a mixture of two Gaussians."""
    spread = (1 - level) ** 2 * WIDTH**2 + level**2
    away = latents[:, None] - (1 - level) * CENTERS.to(latents.dtype)
    odds = torch.softmax(-away.square().sum(2) / (2 * spread), 1)[..., None]
    return (odds * (CENTERS.to(latents.dtype) + (1 - level) * WIDTH**2 / spread * away)).sum(1)


def walk(latents, levels, *, second=True):
    before = None
    for at, (now, after) in enumerate(zip(levels, levels[1:], strict=False)):
        clean = predicted(latents, now)
        latents = dpm_step(latents, clean, before, levels=(levels[max(0, at - 1)], now, after))
        before = clean if second else None
    return latents


@pytest.mark.parametrize("steps", [3, 10, 25])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_the_steps_are_those_of_diffusers(steps, shift):
    scheduler = DPMSolverMultistepScheduler(
        use_flow_sigmas=True,
        prediction_type="flow_prediction",
        flow_shift=shift,
        solver_order=2,
        solver_type="midpoint",
    )
    scheduler.set_timesteps(steps)
    start = torch.randn(64, 2, generator=torch.Generator().manual_seed(0))
    levels, theirs = scheduler.sigmas.tolist(), start
    assert levels[-1] == 0.0
    for time, level in zip(scheduler.timesteps, levels, strict=False):
        velocity = (theirs - predicted(theirs, level)) / level
        theirs = scheduler.step(velocity, time, theirs, return_dict=False)[0]
    torch.testing.assert_close(walk(start, levels), theirs, rtol=0, atol=1e-5)
    assert float((walk(start, levels, second=False) - theirs).abs().max()) > 1e-3


@pytest.mark.parametrize(("second", "order"), [(True, 2.0), (False, 1.0)])
def test_half_the_step_divides_the_error_by_the_power_of_the_order(second, order):
    start = torch.randn(64, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def end(steps):
        return walk(start, [0.9 - 0.8 * at / steps for at in range(steps + 1)], second=second)

    exact = walk(start, [0.9 - 0.8 * at / 4096 for at in range(4097)])
    errors = [float((end(steps) - exact).norm()) for steps in (16, 32, 64)]
    found = [math.log2(coarse / fine) for coarse, fine in zip(errors, errors[1:], strict=False)]
    assert found == pytest.approx([order] * 2, abs=0.25)


def test_from_pure_noise_to_a_sample_it_is_closer_than_euler():
    start = torch.randn(64, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    exact = walk(start, [*linear_sigmas(2000), 0.0])
    errors = [float((walk(start, [*linear_sigmas(10), 0.0], second=each) - exact).norm()) for each in (True, False)]
    assert errors[0] < 0.5 * errors[1]
