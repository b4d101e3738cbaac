from __future__ import annotations

import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.flow import (
    CPS,
    ODE,
    DanceSDE,
    FlowSDE,
    Gaussian,
    NoiseScale,
    clean_gaussian,
    noise_scale,
    predicted_clean,
    transition,
)

SHAPES = [(3,), (3, 5), (3, 4, 6, 6), (3, 2, 4, 5, 5)]
SDES = [FlowSDE(0.7), DanceSDE(0.3), CPS(0.8)]
levels = st.tuples(st.floats(0.05, 0.98), st.floats(0.05, 0.95)).map(lambda pair: (pair[0], pair[0] * pair[1]))


def draws(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(*shape, generator=generator, dtype=dtype) for _ in range(2))


def column(values: torch.Tensor) -> torch.Tensor:
    return values[:, None]


# ------------------------------------------------------------------------------------------------- worked by hand


def test_flow_sde_by_hand():
    # sigma 0.5 -> 0.25: s_t = sqrt(.5/.5) = 1, drift = 1*.25/(2*.5) = .25, std = sqrt(.25) = .5, x1hat = 2 + .5*4 = 4
    step = transition(
        torch.tensor([2.0]),
        torch.tensor([4.0]),
        torch.tensor([0.5]),
        sigma_next=torch.tensor([0.25]),
        noise=FlowSDE(1.0),
    )
    assert step.mean.item() == pytest.approx(2.0 - 0.25 * 4.0 - 0.25 * 4.0)
    assert step.std.item() == pytest.approx(0.5)


def test_dance_sde_by_hand():
    # s_t = .5: drift = .25*.25/(2*.5) = .0625, std = .5*.5 = .25
    step = transition(
        torch.tensor([2.0]),
        torch.tensor([4.0]),
        torch.tensor([0.5]),
        sigma_next=torch.tensor([0.25]),
        noise=DanceSDE(0.5),
    )
    assert step.mean.item() == pytest.approx(2.0 - 1.0 - 0.0625 * 4.0)
    assert step.std.item() == pytest.approx(0.25)


def test_cps_by_hand():
    # eta 1/3 is an angle of 30 degrees: std = sigma'/2, x0hat = 2 - .5*4 = 0, mean = sigma' * cos(30) * x1hat
    step = transition(
        torch.tensor([2.0]), torch.tensor([4.0]), torch.tensor([0.5]), sigma_next=torch.tensor([0.25]), noise=CPS(1 / 3)
    )
    assert step.mean.item() == pytest.approx(0.25 * math.sqrt(3) / 2 * 4.0)
    assert step.std.item() == pytest.approx(0.125)


def test_matching_is_the_flow_matching_loss():
    """x0 = 2 and noise -1 at level 0.25 give x = 1.25; the true velocity is -3, the predicted one -2."""
    clean, latents, sigma = torch.tensor([2.0]), torch.tensor([1.25]), torch.tensor([0.25])
    step = clean_gaussian(latents, torch.tensor([-2.0]), sigma, eta=0.5)
    assert (step.mean.item(), step.std.item()) == (1.75, 0.125)
    assert step.log_prob(clean).item() == pytest.approx(-2.0 - math.log(0.125) - 0.5 * math.log(2.0 * math.pi))
    as_in_the_paper = clean_gaussian(latents, torch.tensor([-2.0]), sigma, eta=math.sqrt(0.5))
    exact = clean_gaussian(latents, torch.tensor([-3.0]), sigma, eta=math.sqrt(0.5))
    assert (exact.log_prob(clean) - as_in_the_paper.log_prob(clean)).item() == pytest.approx(1.0)


def test_sample_by_hand_uses_the_std_of_each_row():
    step = Gaussian(torch.zeros(2, 2), torch.tensor([1.0, 3.0]))
    assert step.sample(torch.tensor([[1.0, 2.0], [1.0, 2.0]])).tolist() == [[1.0, 2.0], [3.0, 6.0]]


def test_log_prob_and_kl_by_hand():
    step = Gaussian(torch.zeros(1, 2), torch.tensor([2.0]))
    log_norm = math.log(2.0) + 0.5 * math.log(2 * math.pi)
    x = torch.tensor([[2.0, 4.0]])  # squares 4 and 16, over 2*std^2 = 8
    assert step.log_prob(x).item() == pytest.approx(-10 / 8 - log_norm)
    assert step.log_prob(x, reduction="sum").item() == pytest.approx(-20 / 8 - 2 * log_norm)
    assert step.kl(Gaussian(x, step.std)).item() == pytest.approx(10 / 8)
    assert step.kl(Gaussian(x, step.std), reduction="sum").item() == pytest.approx(20 / 8)


def test_predicted_clean_by_hand():
    clean = predicted_clean(torch.tensor([[3.0], [3.0]]), torch.tensor([[2.0], [2.0]]), torch.tensor([0.5, 1.0]))
    assert clean.tolist() == [[2.0], [1.0]]


# --------------------------------------------------------------------------------------------- textbook formulas


def flow_textbook(x, v, sigma, sigma_next, eta):
    """Mean and std as Flow-GRPO prints them."""
    dt = sigma_next - sigma
    scale = eta * torch.sqrt(sigma / (1 - sigma))
    mean = x * (1 + column(scale**2 / (2 * sigma) * dt)) + v * column((1 + scale**2 * (1 - sigma) / (2 * sigma)) * dt)
    return mean, scale * torch.sqrt(-dt)


def dance_textbook(x, v, sigma, sigma_next, eta):
    """Mean and std as DanceGRPO prints them, by way of the score."""
    dt = sigma_next - sigma
    clean = x - column(sigma) * v
    score = -(x - clean * column(1 - sigma)) / column(sigma**2)
    return x + v * column(dt) - 0.5 * eta**2 * score * column(dt), eta * torch.sqrt(-dt)


def cps_textbook(x, v, sigma, sigma_next, eta):
    """Mean and std as Flow-CPS prints them."""
    std = sigma_next * math.sin(eta * math.pi / 2)
    clean, dirty = x - column(sigma) * v, x + column(1 - sigma) * v
    return column(1 - sigma_next) * clean + column(torch.sqrt(sigma_next**2 - std**2)) * dirty, std


@pytest.mark.parametrize(
    ("noise", "textbook"), [(FlowSDE(0.7), flow_textbook), (DanceSDE(0.3), dance_textbook), (CPS(0.8), cps_textbook)]
)
@settings(max_examples=40, deadline=None)
@given(level=levels, seed=st.integers(0, 1000))
def test_kernel_equals_the_textbook(noise: NoiseScale, textbook, level, seed):
    x, v = draws(3, 7, seed=seed)
    sigma, sigma_next = (torch.full((3,), value, dtype=torch.float64) for value in level)
    step = transition(x, v, sigma, sigma_next=sigma_next, noise=noise)
    mean, std = textbook(x, v, sigma, sigma_next, noise.eta)
    torch.testing.assert_close(step.mean, mean, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(step.std, std, rtol=1e-12, atol=0)


def test_dance_formula_is_the_flow_kernel_with_constant_scale():
    class ConstantFlow(FlowSDE):
        def diffusion(self, sigma, sigma_max):
            return torch.full_like(sigma, 0.3)

    x, v = draws(4, 9)
    sigma, sigma_next = torch.tensor([[1.0, 0.8, 0.5, 0.1], [0.9, 0.6, 0.2, 0.0]], dtype=torch.float64)
    step = transition(x, v, sigma, sigma_next=sigma_next, noise=ConstantFlow())
    mean, std = dance_textbook(x, v, sigma, sigma_next, 0.3)
    torch.testing.assert_close(step.mean, mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(step.std, std, rtol=1e-12, atol=0)


@settings(max_examples=40, deadline=None)
@given(level=levels, eta=st.floats(0.0, 1.0))
def test_cps_keeps_the_noise_level(level, eta):
    sigma, sigma_next = (torch.tensor([value], dtype=torch.float64) for value in level)
    drift, std = CPS(eta).coefficients(sigma, sigma_next, 0.99)
    torch.testing.assert_close((sigma_next - drift) ** 2 + std**2, sigma_next**2)


def test_flow_sde_uses_sigma_max_above_it_only():
    sigma, sigma_next = torch.tensor([1.0, 0.999999, 0.95, 0.85]), torch.tensor([0.9, 0.9, 0.9, 0.8])
    _, std = FlowSDE(1.0).coefficients(sigma, sigma_next, 0.9)
    length = (sigma - sigma_next).sqrt()
    torch.testing.assert_close(std[0], math.sqrt(1 / 0.1) * length[0])
    torch.testing.assert_close(std[1], math.sqrt(1 / 0.1) * length[1], rtol=1e-5, atol=0)
    torch.testing.assert_close(std[2], math.sqrt(0.95 / 0.1) * length[2], rtol=1e-5, atol=0)
    torch.testing.assert_close(std[3], math.sqrt(0.85 / 0.15) * length[3], rtol=1e-5, atol=0)


# ---------------------------------------------------------------------------------------------------- diffusers


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_ode_equals_the_euler_step_of_diffusers_to_the_bit(shift: float):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(10)
    theirs = ours = draws(2, 4, 8, 8, dtype=torch.float32)[0]
    for index, timestep in enumerate(scheduler.timesteps):
        velocity = draws(2, 4, 8, 8, seed=index + 1, dtype=torch.float32)[0]
        theirs = scheduler.step(velocity, timestep, theirs).prev_sample
        sigma, sigma_next = scheduler.sigmas[index].repeat(2), scheduler.sigmas[index + 1].repeat(2)
        step = transition(ours, velocity, sigma, sigma_next=sigma_next, noise=ODE())
        ours = step.sample(torch.randn_like(ours))
        assert torch.equal(ours, theirs)


# ------------------------------------------------------------------------------------------ densities and shapes


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_log_prob_and_kl_equal_those_of_torch(shape, reduction):
    mean, other = draws(*shape)
    x = draws(*shape, seed=1)[0]
    std, other_std = torch.tensor([[0.2, 0.7, 1.3], [0.3, 0.7, 1.0]], dtype=torch.float64)
    rows = (-1, *(1,) * (len(shape) - 1))
    normal, other_normal = Normal(mean, std.view(rows)), Normal(other, other_std.view(rows))
    gaussian = Gaussian(mean, std)
    expected = getattr(normal.log_prob(x).reshape(3, -1), reduction)(1)
    torch.testing.assert_close(gaussian.log_prob(x, reduction=reduction), expected)
    expected = getattr(kl_divergence(normal, other_normal).reshape(3, -1), reduction)(1)
    torch.testing.assert_close(gaussian.kl(Gaussian(other, other_std), reduction=reduction), expected)


def test_kl_equals_a_monte_carlo_estimate():
    mean, other = draws(1, 4)
    ours, theirs = Gaussian(mean, torch.tensor([0.8])), Gaussian(other, torch.tensor([0.8]))
    count = 40_000
    many, many_other = (Gaussian(g.mean.expand(count, 4), g.std.expand(count)) for g in (ours, theirs))
    x = many.sample(torch.randn(count, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64))
    differences = many.log_prob(x, reduction="sum") - many_other.log_prob(x, reduction="sum")
    error = differences.std() / math.sqrt(count)
    assert abs(differences.mean() - ours.kl(theirs, reduction="sum")) < 4 * error


def test_kl_of_a_gaussian_with_itself_is_exactly_zero():
    mean, _ = draws(3, 8, dtype=torch.float32)
    gaussian = Gaussian(mean, torch.tensor([0.013, 0.7, 3.1]))
    assert gaussian.kl(Gaussian(mean.clone(), gaussian.std.clone()), reduction="sum").tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("noise", SDES)
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_independent_of_their_batch(noise: NoiseScale, shape):
    x, v = draws(*shape, dtype=torch.float32)
    z, _ = draws(*shape, seed=5, dtype=torch.float32)
    sigma, sigma_next = torch.tensor([1.0, 0.6, 0.3]), torch.tensor([0.8, 0.5, 0.1])
    batch = transition(x, v, sigma, sigma_next=sigma_next, noise=noise, sigma_max=0.8)
    assert batch.mean.shape == shape
    assert batch.std.shape == (3,)
    latents = batch.sample(z)
    for row in range(3):
        cut = slice(row, row + 1)
        alone = transition(x[cut], v[cut], sigma[row], sigma_next=sigma_next[row], noise=noise, sigma_max=0.8)
        assert torch.equal(alone.sample(z[cut]), latents[cut])
        torch.testing.assert_close(alone.log_prob(latents[cut]), batch.log_prob(latents)[cut])


@pytest.mark.parametrize("noise", SDES)
def test_replay_of_a_rollout_has_log_ratio_exactly_zero(noise: NoiseScale):
    x, v = draws(4, 3, 8, 8, dtype=torch.float32)
    sigma = torch.tensor([1.0, 0.7, 0.4, 0.2])
    with torch.no_grad():
        rollout = transition(x, v, sigma, sigma_next=sigma * 0.8, noise=noise, sigma_max=0.8)
        latents = rollout.sample(draws(4, 3, 8, 8, seed=1, dtype=torch.float32)[0])
        old = rollout.log_prob(latents)
    replay = transition(x, v.requires_grad_(), sigma, sigma_next=sigma * 0.8, noise=noise, sigma_max=0.8)
    assert (replay.log_prob(latents) - old).tolist() == [0.0] * 4


def test_sampled_latents_have_the_stated_mean_and_std():
    x, v = torch.full((50_000,), 0.4), torch.full((50_000,), -1.2)
    step = transition(x, v, torch.tensor(0.6), sigma_next=torch.tensor(0.5), noise=FlowSDE(0.7))
    sample = step.sample(torch.randn(50_000, generator=torch.Generator().manual_seed(0)))
    std = step.std[0].item()
    assert sample.mean().item() == pytest.approx(step.mean[0].item(), abs=5 * std / math.sqrt(50_000))
    assert sample.std().item() == pytest.approx(std, rel=0.02)


# --------------------------------------------------------------------------------------------- gradients, precision


@pytest.mark.parametrize("noise", SDES)
def test_gradients_of_log_prob_and_kl(noise: NoiseScale):
    x, v = draws(2, 3)
    target, other = draws(2, 3, seed=2)
    sigma, sigma_next = torch.tensor([[0.9, 0.5], [0.7, 0.4]], dtype=torch.float64)
    reference = Gaussian(other, transition(x, v, sigma, sigma_next=sigma_next, noise=noise).std)

    def outputs(velocity: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        step = transition(x, velocity, sigma, sigma_next=sigma_next, noise=noise)
        return step.log_prob(target), step.kl(reference)

    assert torch.autograd.gradcheck(outputs, v.requires_grad_())


def test_gradients_flow_into_the_velocity_only():
    x, v = (tensor.requires_grad_() for tensor in draws(2, 3))
    target = draws(2, 3, seed=2)[0].requires_grad_()
    sigma = torch.tensor([0.9, 0.5], dtype=torch.float64, requires_grad=True)
    transition(x, v, sigma, sigma_next=sigma * 0.7, noise=FlowSDE()).log_prob(target).sum().backward()
    assert v.grad is not None
    assert v.grad.abs().min() > 0
    assert x.grad is None
    assert target.grad is None
    assert sigma.grad is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_computed_in_float32(dtype):
    x, v = (tensor.to(dtype) for tensor in draws(2, 6, dtype=torch.float32))
    sigma, sigma_next = torch.tensor([0.9, 0.5]), torch.tensor([0.8, 0.4])
    step = transition(x, v, sigma, sigma_next=sigma_next, noise=FlowSDE())
    assert step.mean.dtype == step.std.dtype == predicted_clean(x, v, sigma).dtype == torch.float32
    assert torch.equal(step.mean, transition(x.float(), v.float(), sigma, sigma_next=sigma_next, noise=FlowSDE()).mean)


# ------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("noise", [ODE(), CPS(0.8)])
def test_no_density_without_noise(noise: NoiseScale):
    x, v = draws(2, 3)
    step = transition(x, v, torch.tensor([0.5, 0.3]), sigma_next=torch.tensor([0.2, 0.0]), noise=noise)
    with pytest.raises(ConfigError, match=r"log_prob needs a positive std, got 0 in rows \[.*1\]"):
        step.log_prob(x)
    with pytest.raises(ConfigError, match="kl needs a positive std"):
        step.kl(step)


def test_noise_scales_by_name():
    assert noise_scale("flow") == FlowSDE(0.7)
    assert noise_scale("dance", eta=0.2) == DanceSDE(0.2)
    assert noise_scale("cps", 0.5) == CPS(0.5)
    assert noise_scale("ode") == noise_scale("ode", eta=0.0) == ODE()
    with pytest.raises(UnknownNameError, match="Did you mean 'dance'"):
        noise_scale("danse")
    with pytest.raises(ConfigError, match="has no noise"):
        noise_scale("ode", eta=0.7)


@pytest.mark.parametrize("kind", [FlowSDE, DanceSDE, CPS])
@pytest.mark.parametrize("eta", [-0.1, math.nan, math.inf])
def test_impossible_eta_is_refused(kind, eta):
    with pytest.raises(ConfigError, match="eta"):
        kind(eta)


def test_cps_eta_above_one_is_refused():
    with pytest.raises(ConfigError, match=r"\[0, 1\]"):
        CPS(1.1)


@pytest.mark.parametrize("noise", [FlowSDE(0.0), DanceSDE(0.0), CPS(0.0)])
def test_eta_zero_is_the_euler_step(noise: NoiseScale):
    x, v = draws(2, 3)
    sigma, sigma_next = torch.tensor([0.9, 0.5]), torch.tensor([0.8, 0.4])
    step = transition(x, v, sigma, sigma_next=sigma_next, noise=noise)
    assert torch.equal(step.mean, transition(x, v, sigma, sigma_next=sigma_next, noise=ODE()).mean)
    assert step.std.tolist() == [0.0, 0.0]


def test_shapes_that_do_not_fit_are_refused():
    x, v = draws(2, 3)
    half = torch.tensor([0.5, 0.5])
    with pytest.raises(ConfigError, match=r"velocity must have the shape of the latents, \[2, 3\]"):
        transition(x, v[:, :2], half, sigma_next=half * 0.5, noise=ODE())
    with pytest.raises(ConfigError, match=r"sigma_next must be a scalar or \[2\]"):
        transition(x, v, half, sigma_next=torch.ones(3), noise=ODE())
    with pytest.raises(ConfigError, match="sigma_max"):
        transition(x, v, half, sigma_next=half * 0.5, noise=FlowSDE(), sigma_max=1.0)
    step = transition(x, v, half, sigma_next=half * 0.5, noise=FlowSDE())
    with pytest.raises(ConfigError, match="noise must have the shape"):
        step.sample(v[:1])
    with pytest.raises(ConfigError, match="x must have the shape"):
        step.log_prob(x[:1])
    with pytest.raises(UnknownNameError, match="reduction 'total'"):
        step.log_prob(x, reduction="total")
