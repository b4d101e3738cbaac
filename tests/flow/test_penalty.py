from __future__ import annotations

import pytest
import torch

from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.flow import (
    CPS,
    ODE,
    DanceSDE,
    FlowSDE,
    Gaussian,
    Precise,
    clean_gaussian,
    distillation_loss,
    kl_penalty,
    policy_distance,
    predicted_clean,
    transition,
    velocity_scale,
)
from tests.flow.vectors import close, tensor

SIGMA, NEXT = tensor([0.9, 0.6, 0.3]), tensor([0.8, 0.4, 0.1])


def velocities():
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(3, 2, 4, generator=generator, dtype=torch.float64) for _ in range(3)]


@pytest.mark.parametrize("noise", [ODE(), FlowSDE(), DanceSDE(), CPS(), Precise()])
def test_distances_in_velocity_and_clean_latents_do_not_depend_on_the_sampler(noise):
    latents, v, w = velocities()
    here, there = (transition(latents, each, SIGMA, sigma_next=NEXT, noise=noise) for each in (v, w))
    scale = velocity_scale(SIGMA, NEXT, noise=noise)
    close(policy_distance(here, there, space="velocity", velocity_scale=scale), (v - w).square().mean((1, 2)))
    clean = policy_distance(here, there, space="clean", velocity_scale=scale, sigma=SIGMA)
    close(clean, (predicted_clean(latents, v, SIGMA) - predicted_clean(latents, w, SIGMA)).square().mean((1, 2)))


def test_under_matching_the_scale_is_sigma_and_the_mean_is_the_clean_sample():
    latents, v, w = velocities()
    here, there = (clean_gaussian(latents, each, SIGMA, eta=0.5**0.5) for each in (v, w))
    velocity = policy_distance(here, there, space="velocity", velocity_scale=SIGMA)
    close(velocity, (v - w).square().mean((1, 2)))
    close(velocity, policy_distance(here, there))  # eta^2 = 1/2 makes the KL the distance of velocities
    mean = policy_distance(here, there, space="mean")
    close(policy_distance(here, there, space="clean", velocity_scale=SIGMA, sigma=SIGMA), mean)


def test_kl_distillation_and_divergence_are_one_number():
    latents, v, w = velocities()
    student, teacher = (transition(latents, each, SIGMA, sigma_next=NEXT, noise=FlowSDE()) for each in (v, w))
    kl = student.kl(teacher)
    distance = (student.mean - teacher.mean).square().mean((1, 2))
    close(kl, distance / (2 * student.std**2))
    for same in (
        policy_distance(student, teacher),
        distillation_loss(student, teacher, form="sde"),
        kl_penalty(student, teacher, beta=2.0) / 2,
    ):
        close(same, kl)
    ode = distillation_loss(student, teacher, form="ode")
    close(ode, distance / 2)
    close(ode, kl_penalty(student, teacher, beta=1.0, form="mean") / 2)


def test_gradients_reach_the_policy_only():
    policy, other = (Gaussian(torch.full((1, 2), value, requires_grad=True), torch.ones(1)) for value in (1.0, 0.0))
    scale = torch.full((1,), 0.5, requires_grad=True)
    policy_distance(policy, other, space="clean", velocity_scale=scale, sigma=scale).sum().backward()
    assert policy.mean.grad.tolist() == [[1.0, 1.0]]
    assert other.mean.grad is None
    assert scale.grad is None


def test_refusals():
    step = Gaussian(torch.zeros(2, 3), torch.ones(2))
    with pytest.raises(UnknownNameError, match="Did you mean 'velocity'"):
        policy_distance(step, step, space="velocities")
    with pytest.raises(ConfigError, match="'velocity' needs velocity_scale"):
        policy_distance(step, step, space="velocity")
    with pytest.raises(ConfigError, match="'clean' needs sigma"):
        policy_distance(step, step, space="clean", velocity_scale=step.std)
    with pytest.raises(ConfigError, match="same shape"):
        policy_distance(step, Gaussian(torch.zeros(2, 4), step.std), space="velocity", velocity_scale=step.std)
    with pytest.raises(UnknownNameError, match="Known: ode, sde"):
        distillation_loss(step, step, form="kl")
