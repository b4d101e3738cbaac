from __future__ import annotations

import math

import pytest
import torch

from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.flow import covariance_direction, covariance_guidance_loss
from tests.flow.vectors import close, tensor


def samples(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_with_two_samples_it_points_from_the_loser_to_the_winner():
    clean = samples(1, 2, 3, 4)
    found = covariance_direction(tensor([[0.0, 1.0]]), clean)
    expected = clean[:, 1] - clean[:, 0]
    close(found, expected / expected.square().mean().sqrt())


def test_the_covariance_by_hand():
    clean = tensor([[[1.0, 0.0], [0.0, 2.0], [3.0, 0.0]]])
    found = covariance_direction(tensor([[0.9, 0.3, 0.6]]), clean)  # .3 * (1, 0) - .3 * (0, 2)
    close(found, tensor([[1.0, -2.0]]) / math.sqrt(2.5))


def test_unscored_samples_and_dead_groups_give_no_direction():
    clean = samples(3, 4, 5)
    rewards = tensor([[0.1, math.nan, 0.5, math.nan], [0.3, 0.3, 0.3, 0.3], [math.nan] * 4])
    found = covariance_direction(rewards, clean)
    assert not found[1:].any()
    close(found[:1], covariance_direction(rewards[:1, [0, 2]], clean[:1, [0, 2]]))


def test_leading_dimensions():
    rewards, clean = samples(2, 3, 4), samples(2, 3, 4, 5, 6)
    found = covariance_direction(rewards, clean)
    assert found.shape == (2, 3, 5, 6)
    close(found[1, 2], covariance_direction(rewards[1, 2], clean[1, 2]))
    sigma, old = torch.rand(2, 3, 4, dtype=torch.float64) + 0.1, samples(2, 3, 4, 5, 6) * 0.5
    loss = covariance_guidance_loss(clean, old, found, sigma=sigma, scale=0.1, space="velocity", radius=0.5)
    one = covariance_guidance_loss(
        clean[1, 2], old[1, 2], found[1, 2], sigma=sigma[1, 2], scale=0.1, space="velocity", radius=0.5
    )
    close(loss.loss[1, 2], one.loss)
    assert loss.dropped[1, 2].tolist() == one.dropped.tolist()


def test_on_policy_the_gradient_is_the_direction():
    old, direction = samples(2, 3), tensor([1.0, -1.0, 1.0])
    predicted, sigma = old.clone().requires_grad_(), tensor([0.5, 0.25])
    found = covariance_guidance_loss(predicted, old, direction, sigma=sigma, scale=0.1)
    close(found.loss, tensor([0.01, 0.01]))
    close(torch.autograd.grad(found.loss.sum(), predicted)[0], -2 * 0.1 * direction.expand(2, 3) / 3)
    velocity = covariance_guidance_loss(old, old, direction, sigma=sigma, scale=0.1, space="velocity")
    close(velocity.loss, found.loss / sigma.square())


def test_rows_beyond_the_radius_stop_unless_they_return():
    old, direction = torch.zeros(4, 1, dtype=torch.float64), tensor([1.0])
    # target at .1: near, beyond the radius but before the target, past the target, and the wrong way
    predicted = tensor([[0.01], [0.05], [0.2], [-0.05]]).requires_grad_()
    found = covariance_guidance_loss(
        predicted, old, direction, sigma=torch.ones(4, dtype=torch.float64), scale=0.1, radius=0.02
    )
    assert found.dropped.tolist() == [False, True, False, False]
    gradient = torch.autograd.grad(found.loss.sum(), predicted)[0]
    close(gradient[:, 0], tensor([-0.18, 0.0, 0.2, -0.3]))


def test_refusals():
    one = torch.zeros(2, 3)
    with pytest.raises(ConfigError, match=r"rewards \[..., G\]"):
        covariance_direction(torch.zeros(3), one)
    with pytest.raises(UnknownNameError, match="Did you mean 'velocity'"):
        covariance_guidance_loss(one, one, torch.zeros(3), sigma=torch.ones(2), scale=0.1, space="velocty")
    with pytest.raises(ConfigError, match="at least 0"):
        covariance_guidance_loss(one, one, torch.zeros(3), sigma=torch.ones(2), scale=-0.1)
    with pytest.raises(ConfigError, match="expected two predictions"):
        covariance_guidance_loss(one, torch.zeros(2, 4), torch.zeros(3), sigma=torch.ones(2), scale=0.1)
