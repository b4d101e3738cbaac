from __future__ import annotations

import pytest
import torch
from torch import nn

from research.muon import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 32), (2, 32, 8), (1, 5, 1)])
def test_orthogonalize_brings_singular_values_near_one(shape):
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape) * 7.0))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_orthogonalize_keeps_the_singular_vectors():
    left, _, right = torch.linalg.svd(torch.randn(6, 6))
    matrix = left @ torch.diag(torch.tensor([3.0, 2.5, 2.0, 1.5, 1.0, 0.8])) @ right
    found = left.T @ orthogonalize(matrix[None])[0] @ right.T
    torch.testing.assert_close(found - torch.diag(found.diagonal()), torch.zeros(6, 6), atol=1e-4, rtol=0)
    assert (found.diagonal() > 0.5).all()


def test_matrices_are_orthogonalized_one_by_one():
    batch = torch.randn(4, 6, 9) * torch.tensor([1e-3, 1.0, 10.0, 1e3])[:, None, None]
    alone = torch.cat([orthogonalize(matrix[None]) for matrix in batch])
    torch.testing.assert_close(orthogonalize(batch), alone)
    assert not orthogonalize(torch.zeros(1, 3, 3)).any()


def test_steps_lower_a_quadratic():
    goal, start = torch.randn(8, 5), torch.randn(8, 5)
    weight = nn.Parameter(start.clone())
    optimizer = Muon([weight], lr=0.2)
    losses = []
    for _ in range(60):
        loss = (weight - goal).square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[1] < losses[0]
    assert losses[-1] < 0.1 * losses[0]


def test_first_step_has_the_size_of_an_adamw_step():
    weight = nn.Parameter(torch.zeros(12, 30))
    weight.grad = torch.randn(12, 30) * 50.0
    Muon([weight], lr=0.01).step()
    # AdamW moves each entry by lr times about 0.2; here the whole matrix does.
    assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.002, rel=0.2)


def test_parameters_without_gradient_stay():
    still, moved = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))
    moved.grad = torch.randn(4, 4)
    optimizer = Muon([still, moved], lr=0.1)
    optimizer.step()
    assert torch.equal(still, torch.ones(4, 4))
    assert not torch.equal(moved, torch.ones(4, 4))
    assert list(optimizer.state) == [moved]
