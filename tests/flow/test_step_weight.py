from __future__ import annotations

import pytest
import torch

from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.flow import (
    CPS,
    ODE,
    DancePrecise,
    DanceSDE,
    FlowSDE,
    Gaussian,
    Precise,
    clipped_surrogate,
    guarded_surrogate,
    mean_step_weight,
    step_weight,
    transition,
    velocity_scale,
)
from tests.flow.vectors import close, tensor, vector

SCALES = [FlowSDE(0.7), DanceSDE(0.3), CPS(0.8), Precise(0.5), DancePrecise(0.5)]
SIGMA, NEXT = tensor([0.96, 0.8, 0.5, 0.3]), tensor([0.9, 0.7, 0.4, 0.1])


def on_policy(noise):
    """A step whose weights have not changed: velocities with gradients, its distribution, and latents that it drew."""
    generator = torch.Generator().manual_seed(0)
    latents, velocity, draws = (torch.randn(4, 6, generator=generator, dtype=torch.float64) for _ in range(3))
    velocity.requires_grad_()
    step = transition(latents, velocity, SIGMA, sigma_next=NEXT, noise=noise)
    return velocity, step, step.sample(draws).detach(), draws


def gradient(loss, velocity):
    return torch.autograd.grad(loss.sum(), velocity, retain_graph=True)[0]


@pytest.mark.parametrize("noise", SCALES)
def test_the_velocity_scale_is_the_derivative_of_the_mean(noise):
    velocity, step, _, _ = on_policy(noise)
    scale = velocity_scale(SIGMA, NEXT, noise=noise)
    close(gradient(step.mean, velocity), -scale[:, None].expand(4, 6))


@pytest.mark.parametrize("noise", SCALES)
def test_weights_on_policy_leave_what_they_say(noise):
    velocity, step, x, draws = on_policy(noise)
    old = step.log_prob(x).detach()
    surrogate = clipped_surrogate(step.log_prob(x) - old, torch.ones(4, dtype=torch.float64), clip_range=0.1)
    scale = velocity_scale(SIGMA, NEXT, noise=noise)
    left = {"none": scale / step.std, "std": scale, "std/h": scale / (SIGMA - NEXT), "std/K": torch.ones_like(scale)}
    for name, factor in left.items():
        weight = step_weight(name, SIGMA, NEXT, noise=noise)
        close(gradient(weight * surrogate.loss, velocity), factor[:, None] * draws / 6)


@pytest.mark.parametrize("noise", SCALES)
def test_the_guarded_surrogate_on_policy_is_the_plain_one_with_std_over_h(noise):
    velocity, step, x, _ = on_policy(noise)
    advantage, old = tensor([1.0, -0.5, 2.0, 0.3]), Gaussian(step.mean.detach(), step.std)
    guarded = guarded_surrogate(step, old, x, advantage=advantage, step_length=SIGMA - NEXT, clip_range=0.1)
    plain = clipped_surrogate(step.log_prob(x) - old.log_prob(x), advantage, clip_range=0.1)
    weight = step_weight("std/h", SIGMA, NEXT, noise=noise)
    close(gradient(guarded.loss, velocity), gradient(weight * plain.loss, velocity))


def test_weights_on_the_grid_of_flow_grpo():
    given, expected = vector("step_weights_T10_shift3_flow_0.7")
    levels, after = given["sigma"], given["sigma_next"]
    options = {"noise": FlowSDE(0.7), "sigma_max": float(after[0])}
    std, scale = step_weight("std", levels, after, **options), velocity_scale(levels, after, **options)
    close(std, given["std"])
    close(levels - after, given["dt_length"])
    close(scale / std, expected["plain_score_per_unit_noise"])
    close(scale / std * std, expected["guard_rationorm_only"])
    close(scale / std * step_weight("std/h", levels, after, **options), expected["guard_with_reweighting"])
    close(1.73 * std, expected["tempflow_loss_weight_flux"])
    close(2.25 * std, expected["tempflow_loss_weight_sd3"])
    grid = torch.cat([levels, after[-1:]])
    close(std / mean_step_weight("std", grid, noise=FlowSDE(0.7), steps=range(10)), expected["std_over_mean_std_of_10"])
    close(mean_step_weight("std", grid, noise=FlowSDE(0.7), steps=range(9)), expected["mean_std_of_first_9"])
    close(1 / mean_step_weight("std", grid, noise=FlowSDE(0.7), steps=range(9)), expected["inverse_of_it"])


@pytest.mark.parametrize(
    ("name", "noise"), [("flow_0.7", FlowSDE(0.7)), ("dance_0.3", DanceSDE(0.3)), ("cps_0.8", CPS(0.8))]
)
def test_the_scale_of_gradients_for_each_noise_scale(name, noise):
    given, expected = vector("step_gradient_scale")
    grid, values = given["sigmas"], expected[name]
    before, after, options = grid[:-1], grid[1:], {"noise": noise, "sigma_max": float(grid[1])}
    weights = {each: step_weight(each, before, after, **options) for each in ("std", "std/h", "std/K")}
    scale = velocity_scale(before, after, **options)
    close(weights["std"], values["std"])
    close(scale, values["velocity_coefficient"])
    noisy = weights["std"] > 0
    close(
        (scale / weights["std"])[noisy], [float(value) for value in values["score_per_unit_noise"] if value is not None]
    )
    close(weights["std/K"], values["guard_weight_std_over_K"])
    close(weights["std/h"], values["authors_guard_weight_std_over_h"])
    mean = mean_step_weight("std", grid, noise=noise, steps=range(9))
    close(weights["std"] / mean, values["tempflow_weight_std_over_mean_first_9"])


def test_the_weighting_of_tempflow():
    given, expected = vector("tempflow_weighting")
    for std, loss in zip(given["std"], expected["loss_per_step_sd3"], strict=True):
        advantage = 2.25 * std * given["advantage"]
        close(clipped_surrogate(given["ratio"].log(), advantage, clip_range=float(given["clip_range"])).loss, loss)


def test_steps_of_any_shape_and_without_noise():
    assert step_weight("none", SIGMA, NEXT, noise=ODE()).tolist() == [1.0] * 4
    assert step_weight("std/K", SIGMA.view(2, 2), NEXT.view(2, 2), noise=ODE()).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_refusals():
    with pytest.raises(UnknownNameError, match="Did you mean 'std/h'"):
        step_weight("std/hh", SIGMA, NEXT, noise=CPS())
    with pytest.raises(ConfigError, match="needs a step that adds noise"):
        mean_step_weight("std", torch.linspace(1, 0, 5), noise=CPS(), steps=[3])
    with pytest.raises(ConfigError, match=r"got steps \[\]"):
        mean_step_weight("none", torch.linspace(1, 0, 5), noise=CPS(), steps=[])
    old = Gaussian(torch.zeros(2, 3), torch.ones(2))
    with pytest.raises(ConfigError, match="step_length must be sigma - sigma_next"):
        guarded_surrogate(old, old, old.mean, advantage=torch.ones(2), step_length=-torch.ones(2), clip_range=0.1)
