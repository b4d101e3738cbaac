from __future__ import annotations

import math

import pytest
import torch

from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.flow import (
    FlowSDE,
    Gaussian,
    clipped_surrogate,
    guarded_log_ratio,
    guarded_surrogate,
    kl_penalty,
    masked_surrogate,
    sequence_log_ratio,
    sequence_weight,
    transition,
)
from tests.flow.vectors import close, tensor, vector


def test_clip_by_hand():
    # ratios 0.5, 1, 1.5 under a clip of 0.2, for a good and a bad sample
    log_ratio = torch.tensor([0.5, 1.0, 1.5, 0.5, 1.0, 1.5]).log()
    advantage = torch.tensor([2.0, 2.0, 2.0, -1.0, -1.0, -1.0])
    result = clipped_surrogate(log_ratio, advantage, clip_range=0.2)
    torch.testing.assert_close(result.loss, torch.tensor([-1.0, -2.0, -2.4, 0.8, 1.0, 1.5]))
    torch.testing.assert_close(result.ratio, torch.tensor([0.5, 1.0, 1.5, 0.5, 1.0, 1.5]))
    assert result.clipped.tolist() == [False, False, True, True, False, False]


def test_gradient_is_cut_where_clipped_and_only_there():
    log_ratio = torch.tensor([0.5, 1.0, 1.5, 0.5, 1.0, 1.5]).log().requires_grad_()
    advantage = torch.tensor([2.0, 2.0, 2.0, -1.0, -1.0, -1.0], requires_grad=True)
    result = clipped_surrogate(log_ratio, advantage, clip_range=0.2)
    result.loss.sum().backward()
    torch.testing.assert_close(log_ratio.grad, torch.tensor([-1.0, -2.0, 0.0, 0.0, 1.0, 1.5]))
    assert ((log_ratio.grad == 0) == result.clipped).all()
    assert advantage.grad is None
    assert not result.ratio.requires_grad


def test_two_sided_clip_range():
    log_ratio, advantage = torch.tensor([1.25, 0.85]).log(), torch.tensor([1.0, -1.0])
    assert clipped_surrogate(log_ratio, advantage, clip_range=(0.1, 0.3)).clipped.tolist() == [False, True]
    assert clipped_surrogate(log_ratio, advantage, clip_range=(0.2, 0.2)).clipped.tolist() == [True, False]


def test_unmoved_policy_has_ratio_one_and_the_policy_gradient():
    log_ratio = torch.zeros(3, requires_grad=True)
    advantage = torch.tensor([1.0, -2.0, 0.5])
    result = clipped_surrogate(log_ratio, advantage, clip_range=1e-4)
    result.loss.sum().backward()
    assert result.ratio.tolist() == [1.0, 1.0, 1.0]
    assert not result.clipped.any()
    assert torch.equal(log_ratio.grad, -advantage)


def moved_step(scale: float = 0.01, dim: int = 16) -> tuple[Gaussian, Gaussian, torch.Tensor]:
    """A step under a policy, the same under its older self, and the latents that the older one drew."""
    generator = torch.Generator().manual_seed(0)
    x, v, dv, z = (torch.randn(4, dim, generator=generator, dtype=torch.float64) for _ in range(4))
    sigma = torch.tensor([0.95, 0.7, 0.4, 0.1], dtype=torch.float64)
    old = transition(x, v, sigma, sigma_next=sigma - 0.05, noise=FlowSDE())
    new = transition(x, v + scale * dv, sigma, sigma_next=sigma - 0.05, noise=FlowSDE())
    return new, old, old.sample(z)


def test_guarded_log_ratio_equals_its_definition():
    new, old, x = moved_step()
    bias = (new.mean - old.mean).square().mean(1) / (2 * old.std**2)
    expected = (new.log_prob(x) - old.log_prob(x) + bias) * old.std
    torch.testing.assert_close(guarded_log_ratio(new, old, x), expected, rtol=1e-9, atol=1e-12)


def test_guarded_log_ratio_by_hand():
    old, new = (Gaussian(torch.tensor([mean]), torch.tensor([2.0])) for mean in ([0.0, 0.0], [1.0, 3.0]))
    # z = x/2 = (1, -2), moves (1, 3): mean(1*1, -2*3) = -2.5
    assert guarded_log_ratio(new, old, torch.tensor([[2.0, -4.0]])).tolist() == [-2.5]


def test_guarded_log_ratio_has_mean_zero_where_the_plain_one_is_biased():
    count = 20_000
    old = Gaussian(torch.zeros(count, 4), torch.full((count,), 0.5))
    new = Gaussian(torch.full((count, 4), 0.5), old.std)  # bias = .25 / .5 = .5
    x = old.sample(torch.randn(count, 4, generator=torch.Generator().manual_seed(1)))
    plain, guarded = new.log_prob(x) - old.log_prob(x), guarded_log_ratio(new, old, x)
    assert plain.mean().item() == pytest.approx(-0.5, abs=0.02)
    assert guarded.mean().item() == pytest.approx(0.0, abs=0.01)


def test_guarded_log_ratio_of_an_unmoved_policy_is_exactly_zero():
    _, old, x = moved_step()
    assert guarded_log_ratio(Gaussian(old.mean.clone(), old.std), old, x).tolist() == [0.0] * 4


def test_guarded_log_ratio_gradient_reaches_the_policy_only():
    new, old, x = moved_step()
    policy, before = (Gaussian(step.mean.requires_grad_(), step.std) for step in (new, old))
    guarded_log_ratio(policy, before, x.requires_grad_()).sum().backward()
    torch.testing.assert_close(policy.mean.grad, (x - old.mean).detach() / old.std[:, None] / 16)
    assert before.mean.grad is None
    assert x.grad is None


def test_kl_penalty_by_hand():
    policy = Gaussian(torch.tensor([[1.0, 3.0]], requires_grad=True), torch.tensor([0.5]))
    reference = Gaussian(torch.zeros(1, 2, requires_grad=True), torch.tensor([0.5]))
    # mean square 5; over 2*std^2 = .5
    assert kl_penalty(policy, reference, beta=0.1).item() == pytest.approx(0.1 * 10)
    assert kl_penalty(policy, reference, beta=0.1, form="mean").item() == pytest.approx(0.1 * 5)


@pytest.mark.parametrize(("form", "factor"), [("gaussian", 4.0), ("mean", 2.0)])
def test_kl_penalty_pulls_the_policy_and_leaves_the_reference(form, factor):
    mean, anchor = torch.tensor([[1.0]], requires_grad=True), torch.tensor([[0.0]], requires_grad=True)
    std = torch.tensor([0.5])
    kl_penalty(Gaussian(mean, std), Gaussian(anchor, std), beta=1.0, form=form).sum().backward()
    assert mean.grad.item() == pytest.approx(factor)
    assert anchor.grad is None


def test_mean_form_works_without_noise():
    still = torch.zeros(1)
    policy, reference = Gaussian(torch.ones(1, 2), still), Gaussian(torch.zeros(1, 2), still)
    assert kl_penalty(policy, reference, beta=2.0, form="mean").tolist() == [2.0]
    with pytest.raises(ConfigError, match="positive std"):
        kl_penalty(policy, reference, beta=2.0)


def test_refusals():
    step = Gaussian(torch.zeros(2, 3), torch.ones(2))
    with pytest.raises(ConfigError, match=r"got \[2\] and \[2, 1\]"):
        clipped_surrogate(torch.zeros(2), torch.zeros(2, 1), clip_range=0.1)
    for clip_range in (0.0, -0.1, (0.1, 0.0), (1.5, 0.1), math.nan):
        with pytest.raises(ConfigError, match="clip_range"):
            clipped_surrogate(torch.zeros(2), torch.zeros(2), clip_range=clip_range)
    with pytest.raises(ConfigError, match="same shape"):
        guarded_log_ratio(step, step, torch.zeros(2, 4))
    with pytest.raises(ConfigError, match="positive std"):
        guarded_log_ratio(step, Gaussian(step.mean, torch.zeros(2)), step.mean)
    with pytest.raises(ConfigError, match="beta"):
        kl_penalty(step, step, beta=-1.0)
    with pytest.raises(UnknownNameError, match="Did you mean 'gaussian'"):
        kl_penalty(step, step, beta=1.0, form="gausian")
    with pytest.raises(ConfigError, match="same shape"):
        kl_penalty(step, Gaussian(torch.zeros(2, 4), step.std), beta=1.0, form="mean")
    with pytest.raises(ConfigError, match="divergence must have the same shape"):
        masked_surrogate(torch.zeros(2), torch.zeros(2), torch.zeros(3), threshold=0.1)
    with pytest.raises(ConfigError, match="threshold"):
        masked_surrogate(torch.zeros(2), torch.zeros(2), torch.zeros(2), threshold=-0.1)
    with pytest.raises(ConfigError, match=r"got \[3, 2\] and \[2, 3\]"):
        sequence_weight(torch.zeros(3, 2), torch.zeros(2, 3))


def guard():
    given, expected = vector("guard_ratio")
    std = given["std"].expand(3)
    return given, expected, Gaussian(given["new_mean"].requires_grad_(), std), Gaussian(given["old_mean"], std)


def test_the_three_forms_of_the_guarded_log_ratio_are_one_number():
    given, expected, policy, old = guard()
    x, std = given["next_latents"], given["std"]
    plain, bias = policy.log_prob(x) - old.log_prob(x), policy.kl(old)
    close(plain, expected["plain_log_ratio"])
    close(bias, expected["bias_per_sample"])
    # the authors' script has one bias for the batch
    close(bias.mean(), expected["official_bias_is_batch_mean"])
    close(((plain + bias.mean()) * std).exp(), expected["official_ratio"])
    products = ((x - old.mean) / std * (policy.mean - old.mean)).flatten(1).mean(1)
    for form in ((plain + bias) * std, products, guarded_log_ratio(policy, old, x)):
        close(form, expected["guarded_log_ratio"])


def test_the_guarded_surrogate_and_its_gradient_are_per_sample():
    given, expected, policy, old = guard()
    result = guarded_surrogate(
        policy,
        old,
        given["next_latents"],
        advantage=given["advantage"],
        step_length=-given["dt"].expand(3),
        clip_range=float(given["clip_range"]),
    )
    close(result.ratio, expected["ratio_per_sample"])
    loss = result.loss.mean()
    close(loss, expected["loss_per_sample_bias"])
    close(torch.autograd.grad(loss, policy.mean)[0], expected["grad_mean_per_sample_bias"])


def test_the_mask_drops_rows_that_moved_far_in_the_direction_of_their_advantage():
    # far and near, each outward for a good and a bad sample, then returning, then without an advantage
    log_ratio = tensor([0.2, 0.2, -0.2, -0.2, -0.2, 0.2, 0.2]).requires_grad_()
    advantage = tensor([1.0, 1.0, -1.0, -1.0, 1.0, -1.0, 0.0])
    divergence = tensor([1e-5, 0.9e-5, 2e-5, 0.0, 2e-5, 2e-5, 2e-5])
    result = masked_surrogate(log_ratio, advantage, divergence, threshold=1e-5)
    assert result.clipped.tolist() == [True, False, True, False, False, False, False]
    close(result.loss.detach(), torch.where(result.clipped, 0.0, -advantage * log_ratio.detach().exp()))
    result.loss.sum().backward()
    close(log_ratio.grad, result.loss.detach())  # the derivative of -A exp(l)


def test_the_mask_does_nothing_on_policy():
    new, old, _ = moved_step(scale=0.0)
    result = masked_surrogate(torch.zeros(4), torch.ones(4), new.kl(old), threshold=0.0)
    assert not result.clipped.any()
    assert result.loss.tolist() == [-1.0] * 4


def test_steps_of_a_sequence_share_one_ratio():
    log_ratio = tensor([[0.1, 0.2], [0.3, -0.2]])
    close(sequence_log_ratio(log_ratio), tensor([0.2, 0.0]))
    close(sequence_log_ratio(log_ratio, dim=1), tensor([0.15, 0.05]))


def test_the_weight_of_replayed_trajectories():
    given, expected = vector("op_grpo_correction")
    weight = sequence_weight(given["log_prob_old"].requires_grad_(), given["log_prob_behaviour"], dim=1)
    assert not weight.requires_grad
    close(weight, expected["sequence_weight"])
    log_ratio = given["log_prob_new"] - given["log_prob_old"].detach()
    advantage = given["advantage"][:, None].expand(2, 3)
    surrogate = clipped_surrogate(log_ratio, advantage, clip_range=float(given["clip_range"]))
    close(surrogate.ratio, expected["step_ratio"])
    close(weight[:, None] * surrogate.loss, expected["loss_per_step"])
    close((weight[:, None] * surrogate.loss).mean(), expected["loss"])


def test_no_clip_is_an_infinite_range():
    log_ratio, advantage = tensor([-9.0, 0.0, 9.0]), tensor([-1.0, 1.0, 2.0])
    result = clipped_surrogate(log_ratio, advantage, clip_range=(1.0, math.inf))
    close(result.loss, -advantage * log_ratio.exp())
    assert not result.clipped.any()
