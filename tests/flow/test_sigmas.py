from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift

from flexgym.core.errors import ConfigError, GeneratorError, UnknownNameError
from flexgym.flow import dynamic_shift_mu, linear_sigmas, sigma_grid

DYNAMIC = {"use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15, "max_image_seq_len": 4096}


@pytest.mark.parametrize("num_steps", [1, 4, 10, 28])
def test_static_shift_equals_the_scheduler(num_steps):
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(num_steps)
    grid = sigma_grid(FlowMatchEulerDiscreteScheduler(shift=3.0), num_steps)
    assert torch.equal(grid, theirs.sigmas)
    assert grid.dtype == torch.float32
    assert grid.shape == (num_steps + 1,)
    assert grid[0] == 1
    assert grid[-1] == 0


@pytest.mark.parametrize("num_steps", [1, 4, 10])
def test_linear_spacing_equals_the_scheduler_as_flux_calls_it(num_steps):
    theirs = FlowMatchEulerDiscreteScheduler(shift=3.0)
    theirs.set_timesteps(sigmas=np.linspace(1.0, 1 / num_steps, num_steps))
    grid = sigma_grid(FlowMatchEulerDiscreteScheduler(shift=3.0), num_steps, spacing="linear")
    assert torch.equal(grid, theirs.sigmas)
    even = torch.from_numpy(linear_sigmas(num_steps)).float()
    torch.testing.assert_close(grid[:-1], 3.0 * even / (1.0 + 2.0 * even))


@pytest.mark.parametrize("image_seq_len", [64, 1024, 4096])
@pytest.mark.parametrize("terminal", [None, 0.1])
def test_dynamic_shift_equals_the_scheduler(image_seq_len, terminal):
    theirs = FlowMatchEulerDiscreteScheduler(**DYNAMIC, shift_terminal=terminal)
    mu = calculate_shift(image_seq_len, 256, 4096, 0.5, 1.15)
    theirs.set_timesteps(sigmas=np.linspace(1.0, 1 / 10, 10), mu=mu)
    ours = FlowMatchEulerDiscreteScheduler(**DYNAMIC, shift_terminal=terminal)
    assert torch.equal(sigma_grid(ours, 10, image_seq_len=image_seq_len), theirs.sigmas)
    assert torch.equal(sigma_grid(ours, 10, mu=mu), theirs.sigmas)
    theirs.set_timesteps(10, mu=mu)  # as SD3 does it
    assert torch.equal(sigma_grid(ours, 10, image_seq_len=image_seq_len, spacing="scheduler"), theirs.sigmas)


def test_unipc_equals_the_scheduler_as_wan_calls_it():
    def build() -> UniPCMultistepScheduler:
        return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)

    theirs = build()
    theirs.set_timesteps(10)
    assert torch.equal(sigma_grid(build(), 10), theirs.sigmas)


def test_unipc_with_dynamic_shift_spaces_its_levels_itself():
    def build() -> UniPCMultistepScheduler:
        return UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, use_dynamic_shifting=True
        )

    theirs = build()
    theirs.set_timesteps(10, mu=calculate_shift(1024))
    assert torch.equal(sigma_grid(build(), 10, image_seq_len=1024), theirs.sigmas)


def test_the_scheduler_itself_is_left_alone():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(7)
    before = copy.deepcopy(scheduler.__dict__)
    grid = sigma_grid(scheduler, 3)
    grid.zero_()
    assert torch.equal(scheduler.sigmas, before["sigmas"])
    assert scheduler.num_inference_steps == 7


def test_mu_by_hand():
    assert dynamic_shift_mu(256) == pytest.approx(0.5)
    assert dynamic_shift_mu(4096) == pytest.approx(1.15)
    assert dynamic_shift_mu(100, 0, 200, base_shift=1.0, max_shift=2.0) == pytest.approx(1.5)


def test_dynamic_shift_without_a_length_is_refused():
    with pytest.raises(ConfigError, match="pass image_seq_len"):
        sigma_grid(FlowMatchEulerDiscreteScheduler(**DYNAMIC), 4)


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (EulerDiscreteScheduler(), "goes from sigma"),
        (DDIMScheduler(), "has no sigmas"),
        (FlowMatchEulerDiscreteScheduler(invert_sigmas=True), "goes from sigma 0"),
    ],
)
def test_other_schedulers_are_refused(scheduler, message):
    with pytest.raises(GeneratorError, match=message):
        sigma_grid(scheduler, 4)


def test_wrong_settings_are_refused():
    with pytest.raises(ConfigError, match="num_steps must be at least 1, got 0"):
        sigma_grid(FlowMatchEulerDiscreteScheduler(), 0)
    with pytest.raises(UnknownNameError, match="Did you mean 'linear'"):
        sigma_grid(FlowMatchEulerDiscreteScheduler(), 4, spacing="linea")
