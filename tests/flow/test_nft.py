from __future__ import annotations

import pytest
import torch

from flexgym.algorithm.base import CopySchedule
from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.flow import (
    adaptive_error,
    group_advantages,
    matching_log_prob,
    nft_loss,
    optimality,
    soft_clip,
    standardized,
    unit_advantage,
)
from tests.flow.vectors import close, tensor, vector


def predictions(given, *names):
    """Clean latents that velocities predict."""
    t = given["t"].view(-1, 1, 1, 1)
    noised = (1 - t) * given["x0"] + t * given["noise"]
    return [noised - t * given[name] for name in names]


def test_loss_and_gradient():
    given, expected = vector("nft_loss_beta_1.0")
    velocity = given["velocity"].requires_grad_()
    mean, old = predictions(given, "velocity", "old_velocity")
    row = nft_loss(mean, old, given["x0"], advantage=given["advantage"], beta=1.0)
    close(optimality(given["advantage"]), expected["r"])
    close(adaptive_error(mean, given["x0"]), expected["loss_positive"])
    close(adaptive_error(2 * old - mean, given["x0"]), expected["loss_negative"])
    close(row, expected["loss_per_sample"])
    close(row.mean(), expected["policy_loss"])
    distance = (velocity - given["reference_velocity"]).square().mean()
    close(distance, expected["kl"])
    total = row.mean() + given["kl_coeff"] * distance
    close(total, expected["total"])
    close(torch.autograd.grad(total, velocity)[0], expected["grad_velocity"])


@pytest.mark.parametrize(("beta", "name"), [(1.0, "grad_velocity_beta_1"), (0.1, "grad_velocity_beta_0_1")])
def test_on_policy_the_gradient_is_that_of_adaptive_matching_for_any_beta(beta, name):
    given, expected = vector("nft_on_policy_gradient")
    velocity = given["velocity"].requires_grad_()
    (mean,) = predictions(given, "velocity")
    loss = nft_loss(mean, mean, given["x0"], advantage=given["advantage"], beta=beta).mean()
    residual = velocity - (given["noise"] - given["x0"])
    matching = -(given["advantage"] * matching_log_prob(residual, given["t"], weight="adaptive")).mean()
    for each in (loss, matching):
        found = torch.autograd.grad(each, velocity, retain_graph=True)[0]
        close(found, expected[name])
        close(found, expected["grad_of_weighted_matching"])


def test_both_sides_are_bounded_below():
    # equal weights: residual r0 = 1 in all dimensions, and a move d keeps |x0hat - x0| near 1
    clean, old = torch.zeros(2, 4, dtype=torch.float64), torch.ones(2, 4, dtype=torch.float64)
    advantage, beta = tensor([2.0, -2.0]), 0.5
    optimum = -advantage / (5 * beta)  # of the residual
    losses = []
    for share in (0.99, 1.0, 1.01):
        mean = (old + (share * optimum)[:, None]).requires_grad_()
        branches = [(old + side * beta * (mean - old)).square().mean(1) for side in (1, -1)]
        good = optimality(advantage)
        losses.append((5 * (good * branches[0] + (1 - good) * branches[1]) / beta).detach())
    assert (losses[1] < losses[0]).all()
    assert (losses[1] < losses[2]).all()
    far = nft_loss(old + 100.0, old, clean, advantage=advantage, beta=beta)
    assert (far > nft_loss(old, old, clean, advantage=advantage, beta=beta)).all()


def test_modes():
    given, expected = vector("nft_optimality_modes")
    for mode, r in expected.items():
        close(optimality(given["advantage"], clip=float(given["adv_clip"]), mode=mode), r)


def test_groups_have_the_loss_of_rows():
    given, expected = vector("nft_loss_beta_1.0")
    shape = (2, 1, 2)
    groups = [each.unflatten(0, shape) for each in (*predictions(given, "velocity", "old_velocity"), given["x0"])]
    row = nft_loss(*groups, advantage=given["advantage"].view(shape), beta=1.0)
    close(row.flatten(), expected["loss_per_sample"])


def test_the_mode_reaches_the_loss():
    mean, old, clean = (torch.full((2, 3), value, dtype=torch.float64) for value in (0.4, 0.5, 0.0))
    neutral = nft_loss(mean, old, clean, advantage=tensor([0.0, 0.0]), beta=1.0)
    found = nft_loss(mean, old, clean, advantage=tensor([-3.0, 3.0]), beta=1.0, mode="positive_only")
    assert found[0] == neutral[0]
    assert found[1] != neutral[1]


def test_advantages_have_the_deviation_of_all_rewards():
    given, expected = vector("nft_advantage")
    rewards = given["rewards_PG"].numpy()
    close(standardized(rewards, std="global"), expected["global_std_population"])
    close(standardized(rewards), expected["group_std_population"])
    # verl-omni takes the sample standard deviation, in float32
    close(standardized(rewards, std="global", ddof=1), expected["verl_omni_global_std_sample"], atol=1e-6)
    plain = group_advantages(rewards, std="global", clip=None)
    assert plain.tolist() == standardized(rewards, std="global").astype("float32").tolist()


@pytest.mark.parametrize(
    ("name", "schedule"),
    [
        ("type0", CopySchedule()),
        ("type1", CopySchedule(slope=0.001, highest=0.5)),
        ("type2", CopySchedule(slope=0.0075, delay=75, highest=0.999)),
    ],
)
def test_schedules_of_the_old_policy(name, schedule):
    given, expected = vector("nft_old_decay")
    close([schedule.decay(int(step)) for step in given["steps"]], expected[name])


def test_advantages_can_be_scaled_and_bounded():
    advantage = tensor([-9.0, -5.0, 1.0, 7.0])
    close(unit_advantage(advantage), tensor([-1.0, -1.0, 0.2, 1.0]))
    given, expected = vector("vgrpo_surrogate")
    bounded = soft_clip(tensor([1.2, -0.7, -0.5, 6.0]), eta=float(given["soft_clip_eta"]))
    close(bounded, expected["soft_clip_of_1_2_m0_7_m0_5_6"])


def test_no_gradient_reaches_the_old_policy():
    mean, old = (torch.full((1, 2), value, requires_grad=True) for value in (0.4, 0.5))
    nft_loss(mean, old, torch.zeros(1, 2), advantage=torch.ones(1), beta=1.0).sum().backward()
    assert old.grad is None


def test_refusals():
    zeros = torch.zeros(2, 3)
    with pytest.raises(ConfigError, match="beta of DiffusionNFT"):
        nft_loss(zeros, zeros, zeros, advantage=torch.zeros(2), beta=0.0)
    with pytest.raises(ConfigError, match="same shape"):
        nft_loss(zeros, zeros, torch.zeros(2, 4), advantage=torch.zeros(2), beta=1.0)
    with pytest.raises(UnknownNameError, match="Did you mean 'binary'"):
        optimality(zeros, mode="binry")
    with pytest.raises(ConfigError, match="clip of the advantage"):
        optimality(zeros, clip=0.0)
    with pytest.raises(ConfigError, match="eta of the soft clip"):
        soft_clip(zeros, eta=0.0)
