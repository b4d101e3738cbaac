from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.flow import adaptive_error, centered_loss, dgpo_loss, flow_dpo_loss, matching_error, optimality
from tests.flow.vectors import close, tensor, vector

NAMES = ("chosen", "rejected")


@pytest.mark.parametrize("name", ["flow_dpo_beta_100", "flow_dpo_beta_5000"])
def test_flow_dpo(name):
    given, expected = vector(name)
    velocities = [given[f"velocity_{side}"].requires_grad_() for side in NAMES]
    targets = [given["noise"] - given[side] for side in NAMES]
    errors = [matching_error(v - target) for v, target in zip(velocities, targets, strict=True)]
    references = [
        matching_error(given[f"reference_velocity_{side}"] - target)
        for side, target in zip(NAMES, targets, strict=True)
    ]
    for side, error, reference in zip(NAMES, errors, references, strict=True):
        close(error, expected[f"error_{side}"])
        close(reference, expected[f"error_{side}_reference"])
    found = flow_dpo_loss(
        *errors, chosen_reference=references[0], rejected_reference=references[1], beta=float(given["beta"])
    )
    close(found.logit, expected["logit"])
    close(found.accurate.double().mean(), expected["implicit_accuracy"])
    close(found.chosen_change, errors[0] - references[0])
    close(found.rejected_change, errors[1] - references[1])
    loss = found.loss.mean()
    close(loss, expected["loss"])
    for side, gradient in zip(NAMES, torch.autograd.grad(loss, velocities), strict=True):
        close(gradient, expected[f"grad_velocity_{side}"])


def test_a_pair_that_improved_is_accurate():
    errors = tensor([0.4, 0.5, 0.5]), tensor([0.6, 0.5, 0.4])
    reference = torch.full((3,), 0.5, dtype=torch.float64)
    found = flow_dpo_loss(*errors, chosen_reference=reference, rejected_reference=reference, beta=10.0)
    assert found.accurate.tolist() == [True, False, False]
    close(found.loss, -tensor([1.0, 0.0, -0.5]).sigmoid().log())


def group(*shape):
    generator = torch.Generator().manual_seed(5)
    error, reference, old, advantage = (torch.rand(*shape, generator=generator, dtype=torch.float64) for _ in range(4))
    return error.requires_grad_(), reference, old, advantage * 4 - 2


@pytest.mark.parametrize("beta", [1.0, 20.0])
def test_the_gradient_of_dgpo_times_beta_is_that_of_its_objective(beta):
    error, reference, _, advantage = group(3, 4)
    found = dgpo_loss(error, reference, advantage=advantage, beta=beta)
    preference = (advantage * beta * (error - reference) / 4).sum(1)
    objective = -functional.logsigmoid(-preference).mean()
    expected = torch.autograd.grad(objective, error)[0]
    close(beta * torch.autograd.grad(found.loss.mean(), error)[0], expected)
    close(found.weight[:, 0], preference.sigmoid())


def test_dgpo_couples_groups_only_within_themselves():
    error, reference, _, advantage = group(2, 3, 4)
    found = dgpo_loss(error, reference, advantage=advantage, beta=5.0)
    one = dgpo_loss(error[1, 2], reference[1, 2], advantage=advantage[1, 2], beta=5.0)
    close(found.loss[1, 2], one.loss)
    fresh = dgpo_loss(error, error, advantage=advantage, beta=5.0)
    close(fresh.loss, 0.5 * advantage * error)


def test_the_clip_of_dgpo_stops_gradients_and_leaves_values():
    error, old = tensor([0.5, 0.5, 0.5, 0.5]).requires_grad_(), tensor([0.6, 0.6, 0.4, 0.4])
    advantage = tensor([1.0, -1.0, 1.0, -1.0])  # ratios e^.1 and e^-.1
    found = dgpo_loss(error, error.detach(), advantage=advantage, beta=1.0, old_error=old)
    assert found.clipped.tolist() == [True, False, False, True]
    close(found.loss, 0.5 * advantage * error)
    close(torch.autograd.grad(found.loss.sum(), error)[0], tensor([0.0, -0.5, 0.5, 0.0]))


def test_centered_rewards():
    given, expected = vector("crd")
    velocity = given["velocity"].requires_grad_()
    old = adaptive_error(given["old_velocity"], given["target"])
    implicit = old - adaptive_error(velocity, given["target"])
    close(optimality(given["advantage"], clip=float(given["adv_clip"])), expected["reward_target"])
    close(implicit, expected["implicit_reward"])

    def loss(**options):
        return centered_loss(implicit, given["advantage"], beta=float(given["beta"]), **options).mean()

    close(loss(), expected["loss"]["uniform_mse"])
    close(loss(form="bce"), expected["loss"]["uniform_bce"])
    close(loss(centering="softmax", temperature=0.5), expected["loss"]["softmax_0.5_mse"])
    close(loss(centering="signed", neutral=0.0), expected["loss"]["hard_mse"])  # as Flow-Factory, where none is bad
    close(torch.autograd.grad(loss(), velocity)[0], expected["grad_velocity_uniform_mse"])


def test_signed_centers_by_hand():
    # r = (.6, .5, .4): the good center is the first sample, the bad one the last
    implicit, advantage = tensor([0.2, 0.0, -0.4]), tensor([1.0, 0.0, -1.0])
    found = centered_loss(implicit, advantage, beta=1.0, centering="signed")
    good = ((implicit - 0.2) - tensor([0.0, -0.1, -0.2])).square()
    bad = ((implicit + 0.4) - tensor([0.2, 0.1, 0.0])).square()
    close(found, 5.0 * (good + bad) / 2)


def test_rewards_are_centered_over_the_last_dimension():
    implicit, _, _, advantage = group(2, 3, 4)
    for centering in ("uniform", "softmax", "signed"):
        found = centered_loss(implicit, advantage, beta=2.0, centering=centering)
        close(found[1, 0], centered_loss(implicit[1, 0], advantage[1, 0], beta=2.0, centering=centering))


def test_refusals():
    two, three = torch.zeros(2), torch.zeros(3)
    with pytest.raises(ConfigError, match=r"'rejected': \[3\]"):
        flow_dpo_loss(two, three, chosen_reference=two, rejected_reference=two, beta=1.0)
    with pytest.raises(ConfigError, match="beta of Flow-DPO"):
        flow_dpo_loss(two, two, chosen_reference=two, rejected_reference=two, beta=0.0)
    with pytest.raises(ConfigError, match="beta of DGPO"):
        dgpo_loss(two, two, advantage=two, beta=-1.0)
    with pytest.raises(ConfigError, match="clip_range of DGPO"):
        dgpo_loss(two, two, advantage=two, beta=1.0, clip_range=0.0)
    with pytest.raises(ConfigError, match="'old_error'"):
        dgpo_loss(two, two, advantage=two, beta=1.0, old_error=three)
    with pytest.raises(UnknownNameError, match="Did you mean 'mse'"):
        centered_loss(two, two, beta=1.0, form="mses")
    with pytest.raises(UnknownNameError, match="Did you mean 'signed'"):
        centered_loss(two, two, beta=1.0, centering="sign")
    with pytest.raises(ConfigError, match="temperature"):
        centered_loss(two, two, beta=1.0, centering="softmax", temperature=0.0)
