from __future__ import annotations

import math

import pytest
import torch

from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.flow import (
    MATCHING_WEIGHTS,
    adaptive_error,
    clean_gaussian,
    clipped_surrogate,
    matching_error,
    matching_log_prob,
    predicted_clean,
    solace_score,
    unit_advantage,
    velocity_residual,
    vgrpo_surrogate,
)
from tests.flow.vectors import close, tensor, vector


def noised(given):
    t = given["t"].view(-1, 1, 1, 1)
    return (1 - t) * given["x0"] + t * given["noise"]


@pytest.mark.parametrize(
    ("name", "weight"),
    [("Uniform", "uniform"), ("t", "t"), ("t**2", "t2"), ("huber", "huber"), ("ghuber", "ghuber")],
)
def test_log_densities_of_awm(name, weight):
    given, expected = vector("awm_log_prob")
    for side in ("new", "old"):
        predicted = predicted_clean(noised(given), given[f"velocity_{side}"], given["t"])
        residual = velocity_residual(predicted, given["x0"], given["t"])
        close(residual, given[f"velocity_{side}"] - (given["noise"] - given["x0"]))
        found = matching_log_prob(residual, given["t"], weight=weight, power=float(given["ghuber_power"]))
        close(found, expected[name][f"log_prob_{side}"])


def test_uniform_log_ratios_are_those_of_the_density_of_clean_latents():
    given, _ = vector("awm_log_prob")
    x, t = noised(given), given["t"]
    log_probs, densities = [], []
    for side in ("new", "old"):
        velocity = given[f"velocity_{side}"]
        log_probs.append(matching_log_prob(velocity - (given["noise"] - given["x0"]), t, weight="uniform"))
        densities.append(clean_gaussian(x, velocity, t, eta=math.sqrt(0.5)).log_prob(given["x0"]))
    close(log_probs[0] - log_probs[1], densities[0] - densities[1])


def test_the_adaptive_weight_is_constant_and_floored():
    residual, sigma = tensor([[3.0, -1.0], [0.0, 0.0]]).requires_grad_(), tensor([0.5, 1.0])
    found = matching_log_prob(residual, sigma, weight="adaptive")
    close(found, tensor([-0.25 * 5.0 / (0.5 * 2.0), 0.0]))
    close(torch.autograd.grad(found.sum(), residual)[0][0], -0.25 * residual[0] / (0.5 * 2.0))
    close(adaptive_error(tensor([[1e-6, 1e-6]]), tensor([[0.0, 0.0]])), tensor([1e-12 / 1e-5]))


@pytest.mark.parametrize("weight", MATCHING_WEIGHTS)
def test_any_leading_dimensions_give_the_same_numbers(weight):
    generator = torch.Generator().manual_seed(0)
    residual = torch.randn(2, 3, 4, 5, 6, generator=generator, dtype=torch.float64)
    sigma = torch.rand(2, 3, 4, generator=generator, dtype=torch.float64)
    found = matching_log_prob(residual, sigma, weight=weight)
    close(found.flatten(), matching_log_prob(residual.flatten(0, 2), sigma.flatten(), weight=weight))


def test_awm_by_hand():
    # r = exp(q_old - q) = e^.1, A = clip(10, +-5)/5 = 1, a range of 1 is off; distances of velocities .04 and .01
    q, q_old = tensor([0.3]), tensor([0.4])
    surrogate = clipped_surrogate(q_old - q, unit_advantage(tensor([10.0])), clip_range=1.0)
    close(surrogate.loss + 0.5 * 0.04 + 1.0 * 0.01, tensor([-math.exp(0.1) + 0.03]))


def pairs_of_vgrpo():
    """Clean latents [3, ...], and predictions [2 pairs, 3, ...] under the new and the old velocity."""
    given, expected = vector("vgrpo_surrogate")
    clean, noise = given["clean"].flatten(1), given["noise_shared_by_group"][0].flatten(1)
    t = given["t_shared"][:, None, None]
    x = (1 - t) * clean + t * noise[:, None]
    new = given["velocity_new"].flatten(2).transpose(0, 1).requires_grad_()
    old = given["velocity_old"].flatten(2).transpose(0, 1)
    return given, expected, clean, new, x - t * new, x - t * old


def test_vgrpo_has_the_mean_over_pairs_inside_one_exponential():
    given, expected, clean, _, predicted, old = pairs_of_vgrpo()
    errors = [adaptive_error(each, clean, lead=2) for each in (predicted, old)]
    close(errors[0].T, expected["loss_new"])
    close(errors[1].T, expected["loss_old"])
    options = {"advantage": given["advantage"], "clip_range": float(given["clip_range"])}
    result = vgrpo_surrogate(predicted, old, clean, **options)
    close(result.ratio, expected["ratio"])
    close(result.loss.mean(), expected["clipped_objective_loss"])
    # the ratio per pair, which it is not
    each = clipped_surrogate(
        errors[1] - errors[0], given["advantage"].expand(2, 3), clip_range=float(given["clip_range"])
    )
    close(each.ratio.T, expected["ratio_per_pair_variant"])
    close(each.loss.mean(), expected["clipped_objective_loss_per_pair_variant"])


def test_vgrpo_with_a_kl_instead_of_the_clip():
    given, expected, clean, velocity, predicted, old = pairs_of_vgrpo()
    options = {"advantage": given["advantage"], "clip_range": None}
    penalized = vgrpo_surrogate(predicted, old, clean, kl_coeff=float(given["kl_beta"]), **options)
    plain = vgrpo_surrogate(predicted, old, clean, **options)
    close((penalized.loss - plain.loss) / given["kl_beta"], expected["kl_x"])
    loss = penalized.loss.mean()
    close(loss, expected["kl_variant_loss"])
    gradient = torch.autograd.grad(loss, velocity)[0].transpose(0, 1)
    close(gradient, expected["grad_velocity_kl_variant"].flatten(2))


def test_vgrpo_of_groups():
    given, _, clean, _, predicted, old = pairs_of_vgrpo()
    flat = vgrpo_surrogate(predicted, old, clean, advantage=given["advantage"], kl_coeff=0.3)
    shape = (1, 3)
    grouped = vgrpo_surrogate(
        predicted.unflatten(1, shape),
        old.unflatten(1, shape),
        clean.unflatten(0, shape),
        advantage=given["advantage"].view(shape),
        kl_coeff=0.3,
    )
    close(grouped.loss[0], flat.loss)


def test_self_confidence():
    given, expected = vector("solace_score")
    noise, velocity = (given[name].flatten(2) for name in ("noise", "velocity"))
    residual = velocity + given["clean"].flatten(1)[:, None] - noise
    close(matching_error(residual, lead=2), expected["error"])
    close(solace_score(residual), expected["score"])


def test_refusals():
    residual = torch.zeros(2, 3)
    with pytest.raises(UnknownNameError, match="Did you mean 'huber'"):
        matching_log_prob(residual, torch.ones(2), weight="hubr")
    with pytest.raises(ConfigError, match="power"):
        matching_log_prob(residual, torch.ones(2), weight="ghuber", power=0.0)
    with pytest.raises(ConfigError, match="expected predictions"):
        vgrpo_surrogate(residual, residual, residual, advantage=torch.ones(2))
    with pytest.raises(ConfigError, match="kl_coeff"):
        vgrpo_surrogate(residual[None], residual[None], residual, advantage=torch.ones(2), kl_coeff=-1.0)
