from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import logit
from scipy.stats import kstest, norm

from flexgym.algorithm.levels import LevelDraw
from flexgym.core.errors import ConfigError


def drawn(draw, groups=400, size=4):
    return torch.stack([draw.sigmas(torch.Generator().manual_seed(seed), size) for seed in range(groups)])


def test_uniform_levels_lie_in_the_range():
    levels = drawn(LevelDraw("uniform", count=3, low=0.2, high=0.8)).numpy()
    assert levels.shape == (400, 3, 4)
    assert kstest(levels.ravel(), "uniform", args=(0.2, 0.6)).pvalue > 0.01


def test_logit_normal_levels_have_that_distribution_within_the_range():
    levels = drawn(LevelDraw("logit_normal", count=3, low=0.1, high=0.9)).numpy().astype(np.float64).ravel()
    low, high = norm.cdf(logit([0.1, 0.9]))
    assert levels.min() >= 0.1
    assert levels.max() <= 0.9
    assert kstest((norm.cdf(logit(levels)) - low) / (high - low), "uniform").pvalue > 0.01


def test_strata_hold_one_level_each():
    levels = drawn(LevelDraw("uniform", count=4, low=0.2, high=1.0, stratified=True)).numpy()
    assert (((levels - 0.2) // 0.2).astype(int) == np.arange(4)[None, :, None]).all()


def test_shared_levels_are_those_of_the_group():
    assert (drawn(LevelDraw("uniform", count=2, shared=True)).std(-1) == 0).all()
    assert (drawn(LevelDraw("uniform", count=2)).std(-1) > 0).all()


@pytest.mark.parametrize("wrong", [{"source": "uniform"}, {"low": 0.0}, {"low": 0.9, "high": 0.5}, {"high": 1.5}])
def test_impossible_levels_are_rejected(wrong):
    with pytest.raises(ConfigError, match="levels: expected"):
        LevelDraw(**wrong)
