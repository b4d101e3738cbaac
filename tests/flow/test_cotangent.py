from __future__ import annotations

import numpy as np
import pytest
import torch

from flexgym.core.errors import ConfigError
from flexgym.flow import (
    cotangent_loss,
    draft_lv_replays,
    draw_drtune_steps,
    draw_refl_step,
    draw_sparse_steps,
    drtune_replays,
    lagrange_weights,
    refl_replays,
    sparse_replays,
)
from tests.flow.vectors import close, vector

GIVEN, EXPECTED = vector("reward_backpropagation_toy")
SIGMAS, PATH, START = GIVEN["sigmas"], GIVEN["trajectory"], GIVEN["x_init"]


def velocity(x, step, theta=GIVEN["theta"]):
    return theta * x * (1 + SIGMAS[step])


def loss(scored):
    return 0.5 * (scored - 0.2).square()


def expect(name, scored, replays, latents=None):
    """Compare with a vector: mean loss at what is scored, and the sum of replays with its gradient."""
    theta = GIVEN["theta"].clone().requires_grad_()
    scored = scored.reshape(-1).clone().requires_grad_()
    gradients = torch.autograd.grad(loss(scored).sum(), scored)[0].expand(len(replays.steps))
    latents = PATH[list(replays.steps)] if latents is None else latents
    total = sum(
        cotangent_loss(velocity(x, step, theta).view(1, 1), g.view(1, 1), coefficient=coefficient).sum()
        for x, step, g, coefficient in zip(latents, replays.steps, gradients, replays.coefficients, strict=True)
    )
    close(loss(scored).mean(), EXPECTED[name]["loss"])
    close(torch.autograd.grad(total, theta)[0], EXPECTED[name]["grad_theta"])


def posterior_mean(step):
    return PATH[step] - SIGMAS[step] * velocity(PATH[step], step)


def test_the_trajectory():
    for step, expected in enumerate(GIVEN["velocities"]):
        close(velocity(PATH[step], step), expected)
        close(PATH[step] + (SIGMAS[step + 1] - SIGMAS[step]) * expected, PATH[step + 1])


@pytest.mark.parametrize(
    ("name", "last"), [("full_backpropagation", 4), ("draft_1", 1), ("draft_2", 2), ("draft_3", 3)]
)
def test_graphs_over_steps_for_comparison(name, last):
    theta = GIVEN["theta"].clone().requires_grad_()
    x = PATH[4 - last]
    for step in range(4 - last, 4):
        x = x + (SIGMAS[step + 1] - SIGMAS[step]) * velocity(x, step, theta)
    close(loss(x), EXPECTED[name]["loss"])
    close(torch.autograd.grad(loss(x), theta)[0], EXPECTED[name]["grad_theta"])


@pytest.mark.parametrize("step", [1, 2, 3])
def test_refl(step):
    expect(f"refl_step_{step}", posterior_mean(step), refl_replays(SIGMAS, step))


def test_refl_at_the_last_step_is_draft_1():
    expect("draft_1", PATH[4], refl_replays(SIGMAS, 3))
    assert draft_lv_replays(SIGMAS, copies=0) == refl_replays(SIGMAS, 3)


@pytest.mark.parametrize("stop", [2, 3])
def test_drtune(stop):
    expect(f"drtune_train_0_2_stop_{stop}", posterior_mean(stop), drtune_replays(SIGMAS, {0, 2}, stop=stop))


def test_draft_lv():
    noise, level = torch.tensor([0.3, -0.5], dtype=torch.float64), SIGMAS[3]
    latents = torch.cat([PATH[3:4], (1 - level) * PATH[4] + level * noise])
    scored = latents - level * velocity(latents, 3)
    expect("draft_lv_noise_0.3_-0.5", scored, draft_lv_replays(SIGMAS, copies=2), latents)


@pytest.mark.parametrize("active", [(1, 3), (0, 1, 2, 3)])
def test_sparse(active):
    name, replays = f"flowbp_sparse_active_{'_'.join(map(str, active))}", sparse_replays(SIGMAS, active)
    expect(name, PATH[4], replays)
    close(-4 * replays.coefficients[0], EXPECTED[name]["grad_rescale_factor"])  # each step is 1/4 long


def test_drtune_to_the_end_is_sparse_without_a_factor():
    every = range(4)
    assert drtune_replays(SIGMAS, every, stop=3) == sparse_replays(SIGMAS, every)
    close(sparse_replays(SIGMAS, (1,), rescale=0.0).coefficients, [-0.25])


def test_rows_have_their_own_coefficients():
    v, g = torch.ones(2, 3, 2), torch.full((2, 3, 2), 2.0, requires_grad=True)
    found = cotangent_loss(v.requires_grad_(), g, coefficient=torch.tensor([1.0, -0.5]))
    assert found.tolist() == [12.0, -6.0]
    found.sum().backward()
    assert v.grad[:, 0, 0].tolist() == [2.0, -1.0]
    assert g.grad is None


def test_draws_cover_what_the_authors_draw():
    rng = np.random.default_rng(0)
    assert {draw_refl_step(25, rng) for _ in range(300)} == set(range(14, 25))
    assert {draw_refl_step(4, rng) for _ in range(100)} == set(range(4))
    stops = set()
    for _ in range(300):
        steps, stop = draw_drtune_steps(25, rng)
        stops.add(stop)
        assert len(steps) == 3
        assert steps[1] - steps[0] == steps[2] - steps[1] == (stop + 1) // 3
        assert 0 <= steps[0] <= steps[2] <= stop
    assert stops == set(range(15, 25))
    assert draw_drtune_steps(1, rng) == ((0,), 0)
    assert draw_sparse_steps(3, rng) == (0, 1, 2)
    counts = np.zeros(25)
    for _ in range(500):
        steps = draw_sparse_steps(25, rng, count=4)
        assert len(set(steps)) == 4
        assert list(steps) == sorted(steps)
        counts[list(steps)] += 1
    assert counts[20:].sum() > 5 * counts[:5].sum()


@pytest.mark.parametrize("case", ["case_1", "case_2"])
def test_lagrange_weights(case):
    given, expected = vector("flowbp_lagrange_weights")
    values = given[case]
    weights = lagrange_weights(values["points"].tolist(), float(values["start"]), float(values["target"]))
    close(weights, expected[case])
    close(sum(weights), values["target"] - values["start"])


def test_refusals():
    with pytest.raises(ConfigError, match="from 0 to 3"):
        refl_replays(SIGMAS, 4)
    with pytest.raises(ConfigError, match=r"stop=1, got \[2, 3\]"):
        drtune_replays(SIGMAS, (2, 3), stop=1)
    with pytest.raises(ConfigError, match="copies"):
        draft_lv_replays(SIGMAS, copies=-1)
    with pytest.raises(ConfigError, match="active steps"):
        sparse_replays(SIGMAS, ())
    with pytest.raises(ConfigError, match="different points"):
        lagrange_weights([0.5, 0.5], 1.0, 0.0)
    with pytest.raises(ConfigError, match="same shape"):
        cotangent_loss(torch.zeros(1, 2), torch.zeros(1, 3), coefficient=1.0)
