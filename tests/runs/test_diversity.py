from __future__ import annotations

import itertools

import numpy as np
import pytest

from flexgym.runs.diversity import group_diversity, mean_diversity


@pytest.mark.parametrize("shape", [(5, 4, 6, 3), (4, 3, 4, 6, 3)])
def test_it_is_the_root_mean_square_distance_over_all_pairs(shape):
    samples = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    values = samples.astype(np.float64) / 255.0
    pairs = itertools.combinations(values, 2)
    expected = np.sqrt(np.mean([np.mean((first - second) ** 2) for first, second in pairs]))
    assert group_diversity(samples) == pytest.approx(expected, rel=1e-12)
    assert group_diversity(samples[::-1]) == group_diversity(samples)


def test_bounds_and_groups_of_one():
    black = np.zeros((1, 2, 2, 3), np.uint8)
    assert group_diversity(np.concatenate([black, black + 255])) == 1.0
    assert group_diversity(np.repeat(black + 7, 3, axis=0)) == 0.0
    assert np.isnan(group_diversity(black))
    assert mean_diversity([np.concatenate([black, black + 255]), np.repeat(black, 2, axis=0), black]) == 0.5
    assert np.isnan(mean_diversity([black]))
