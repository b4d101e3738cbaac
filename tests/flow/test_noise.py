from __future__ import annotations

import pytest
import torch

from flexgym.core.errors import ConfigError
from flexgym.flow import DancePrecise, Precise, noise_after, noise_scale
from tests.flow.vectors import close, tensor, vector


@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize(("name", "scale"), [("precise", Precise), ("dance_precise", DancePrecise)])
def test_precise_scales(name, scale, eta):
    given, expected = vector("precise_noise_scale")
    drift, std = scale(eta).coefficients(given["sigma"], given["sigma_next"], 0.99)
    close(std, expected[str(eta)][f"{name}_std"])
    close(drift, expected[str(eta)][f"{name}_drift"])


@pytest.mark.parametrize("scale", [Precise, DancePrecise])
def test_they_keep_the_noise_level_and_take_the_last_step_without_noise(scale):
    grid = torch.linspace(1, 0, 11)
    close(noise_after(grid, scale(0.8)), grid[1:], atol=1e-6)
    for eta in (0.0, 0.8):
        drift, std = scale(eta).coefficients(tensor([0.2]), tensor([0.0]), 0.99)
        assert (drift.item(), std.item()) == (0.0, 0.0)
    drift, std = scale(0.0).coefficients(grid[:-1], grid[1:], 0.99)
    assert not drift[1:].any()
    assert not std[1:].any()


def test_they_have_names_and_defaults():
    assert noise_scale("precise") == Precise(0.7)
    assert noise_scale("dance_precise", 0.5) == DancePrecise(0.5)
    with pytest.raises(ConfigError, match="eta of Precise"):
        Precise(-1.0)
