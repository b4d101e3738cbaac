"""Every grid of noise levels is safe to add noise on: no scheduler, shift or number of steps makes a step explode."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from hypothesis import given, settings
from hypothesis import strategies as st

from flexgym.core.errors import ConfigError, GeneratorError
from flexgym.flow import CPS, ODE, DanceSDE, FlowSDE, Window, noise_after, require_stochastic, sigma_grid, transition

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
SCHEDULERS = {
    "euler": lambda shift: FlowMatchEulerDiscreteScheduler(shift=shift),
    "euler to 0.1": lambda shift: FlowMatchEulerDiscreteScheduler(shift=shift, shift_terminal=0.1),
    "euler karras": lambda shift: FlowMatchEulerDiscreteScheduler(shift=shift, use_karras_sigmas=True),
    "euler exponential": lambda shift: FlowMatchEulerDiscreteScheduler(shift=shift, use_exponential_sigmas=True),
    "unipc": lambda shift: UniPCMultistepScheduler(**FLOW, flow_shift=shift),
    "unipc karras": lambda shift: UniPCMultistepScheduler(**FLOW, flow_shift=shift, use_karras_sigmas=True),
    "unipc to 0.1": lambda shift: UniPCMultistepScheduler(**FLOW, flow_shift=shift, shift_terminal=0.1),
    "dpm++": lambda shift: DPMSolverMultistepScheduler(**FLOW, flow_shift=shift),
}


def made(kind, shift, steps):
    """A grid; None where the scheduler gives equal levels, which is rejected."""
    try:
        return sigma_grid(SCHEDULERS[kind](shift), steps)
    except GeneratorError:
        return None


GRIDS = st.builds(made, st.sampled_from(sorted(SCHEDULERS)), st.floats(0.3, 20.0), st.integers(2, 60)).filter(
    lambda grid: grid is not None
)


def coefficients(noise, grid):
    return noise.coefficients(grid[:-1], grid[1:], float(grid[1]))


def test_the_first_step_of_dpm_solver_is_as_noisy_as_that_of_other_schedulers():
    grids = [sigma_grid(SCHEDULERS[kind](3.0), 28) for kind in ("euler", "unipc", "dpm++")]
    assert [round(float(grid[0]), 6) for grid in grids] == [1.0, 0.999999, 0.999666]
    latents = torch.randn(1, 4096, generator=torch.Generator().manual_seed(0))
    for grid in grids:
        drift, std = coefficients(FlowSDE(0.7), grid)
        assert 0.68 < std[0] < 0.7001
        assert 0.2 < drift[0] < 0.25
        step = transition(
            latents, latents, grid[:1], sigma_next=grid[1:2], noise=FlowSDE(0.7), sigma_max=float(grid[1])
        )
        noise = torch.randn(1, 4096, generator=torch.Generator().manual_seed(1))
        assert step.sample(noise).std() < 1.2


@settings(max_examples=150, deadline=None)
@given(grid=GRIDS, eta=st.floats(0.05, 1.0))
def test_noise_is_bounded_by_the_step_on_every_grid(grid, eta):
    length = grid[:-1] - grid[1:]
    for noise in (FlowSDE(eta), DanceSDE(eta), CPS(eta), ODE()):
        drift, std = coefficients(noise, grid)
        assert bool(torch.isfinite(drift).all() and torch.isfinite(std).all())
        # fresh noise never exceeds what the strength says for a step from pure noise; with CPS it replaces old noise
        most = float(grid[1]) if isinstance(noise, CPS) else noise.eta
        assert float(std[0]) <= most * (1 + 1e-5)
        # Flow-SDE: s^2 = eta^2 sigma / (1 - sigma), with the second level in place of the first
        room = 1.0 - torch.cat([grid[1:2], grid[1:-1]])
        if isinstance(noise, FlowSDE):
            torch.testing.assert_close(std.square(), eta**2 * grid[:-1] * length / room, rtol=1e-4, atol=1e-7)
    # the step keeps the noise level up to the first order of its length relative to what is left of the way to 1
    excess = noise_after(grid, FlowSDE(eta))[0].square() - grid[1].square()
    assert float(excess) <= eta**2 * float(length[0]) + eta**4 / 4 + 1e-5


@settings(max_examples=100, deadline=None)
@given(grid=GRIDS, eta=st.floats(0.05, 1.5))
def test_a_window_that_is_accepted_has_no_step_that_explodes(grid, eta):
    for noise in (FlowSDE(eta), DanceSDE(eta)):
        for step in range(len(grid) - 2):
            loud = float(noise_after(grid, noise)[step]) > 2.0
            with pytest.raises(ConfigError, match="lower eta") if loud else nullcontext():
                require_stochastic(Window(step, 1), grid, noise)


def test_a_step_too_long_for_its_noise_is_rejected():
    grid = torch.tensor([1.0, 0.99, 0.3, 0.0])
    require_stochastic(Window(0, 1), grid, FlowSDE(0.7))
    with pytest.raises(ConfigError, match=r"contains step 1 from sigma 0\.99 to 0\.3.*std 17.*expected at most 2"):
        require_stochastic(Window(0, 2), grid, FlowSDE(0.7))
    require_stochastic(Window(0, 2), grid, CPS(0.7))


def test_grids_that_begin_at_one_have_the_numbers_of_flow_grpo():
    grid = sigma_grid(SCHEDULERS["euler"](3.0), 10)
    sigma = grid[:-1]
    replaced = torch.where(sigma == 1, grid[1], sigma)
    published = torch.sqrt(sigma / (1 - replaced)) * 0.7
    _, std = coefficients(FlowSDE(0.7), grid)
    assert torch.equal(std, published * (grid[:-1] - grid[1:]).sqrt())
