"""Fresh noise on finished samples: of each level, group and pass, whatever else is asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from flexgym.algorithm.kept import Rollout
from flexgym.algorithm.levels import LevelDraw
from flexgym.algorithm.process import ForwardProcess
from flexgym.flow import Window, linear_sigmas
from flexgym.types import Prompt

GRID = torch.tensor([*linear_sigmas(6), 0.0])
DRAWS = {
    "grid": LevelDraw(),
    "uniform": LevelDraw("uniform", count=3),
    "shared": LevelDraw("uniform", count=3, shared=True),
}


def rollout(seeds=(3, 4)):
    clean = torch.randn(1, 2, 2, 5, 7, generator=torch.Generator().manual_seed(0))[:, : len(seeds)]
    samples = np.zeros((len(seeds), 2, 1, 1, 3), np.uint8)
    return Rollout((Prompt("a"),) * len(seeds), samples, Window(1, 3), {"target": clean}, seeds=tuple(seeds))


def noise_of(draw, indices, seeds=(3, 4), number=0):
    trained = ForwardProcess(draw=DRAWS[draw]).trained(rollout(seeds), indices, GRID, draw=number)
    level = trained.levels.sigma.view(*trained.latents.shape[:3], 1, 1)
    return trained, (trained.latents - (1 - level) * trained.target) / level


@pytest.mark.parametrize("draw", DRAWS)
def test_a_level_is_the_same_whichever_others_are_asked_for(draw):
    every, _ = noise_of(draw, [0, 1, 2])
    for index in range(3):
        one, _ = noise_of(draw, [index])
        assert torch.equal(one.latents[0], every.latents[index])
        assert torch.equal(one.levels.sigma, every.levels.sigma.view(3, -1)[index])
    alone, _ = noise_of(draw, [0, 1, 2], seeds=(3,))
    assert torch.equal(alone.latents[:, 0], every.latents[:, 0])


@pytest.mark.parametrize("draw", DRAWS)
def test_levels_groups_and_passes_have_noise_of_their_own(draw):
    values = torch.cat([noise_of(draw, [0, 1, 2], number=number)[1] for number in (0, 1)])
    rows = values[:, :, :1] if draw == "shared" else values
    assert (draw == "shared") == bool((values - values[:, :, :1]).abs().max() < 1e-4)
    rows = rows.reshape(-1, 35)
    assert torch.corrcoef(rows).fill_diagonal_(0).abs().max() < 0.7
    assert rows.std() == pytest.approx(1.0, abs=0.1)


def test_only_the_levels_of_a_replay_are_drawn(monkeypatch):
    made = []
    normal = torch.randn
    monkeypatch.setattr(torch, "randn", lambda *shape, **options: made.append(1) or normal(*shape, **options))
    ForwardProcess().trained(rollout(), [1], GRID)
    assert len(made) - 1 == 2  # of the two groups, beside the clean latents above
