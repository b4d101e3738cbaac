"""Statistics against values worked by hand, closed forms and SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from flexgym.benchmark.statistics import (
    improvement_interval,
    interquartile_interval,
    interquartile_mean,
    mean_interval,
    probability_of_improvement,
    resample,
)


def test_the_interquartile_mean_cuts_a_quarter_at_each_end_rounded_down():
    assert interquartile_mean(np.array([9.0, 1.0, 2.0, 4.0])) == 3.0, "1 and 9 are cut"
    assert interquartile_mean(np.array([0.0, 1.0, 2.0, 3.0, 100.0])) == 2.0, "one of five at each end"
    assert interquartile_mean(np.array([1.0, 2.0, 6.0])) == 3.0, "none of three"
    assert interquartile_mean(np.arange(8.0)[None]).tolist() == [3.5]


def test_the_probability_of_improvement_counts_pairs_and_half_of_ties():
    first, second = np.array([0.2, 0.5, 0.8]), np.array([0.5, 0.1])
    # 0.2: loses, wins; 0.5: ties, wins; 0.8: wins, wins. 4.5 of 6.
    assert probability_of_improvement(first, second) == 0.75
    assert probability_of_improvement(second, first) == 0.25
    drawn = np.random.default_rng(0).integers(0, 6, (2, 9)).astype(float)
    found = stats.mannwhitneyu(drawn[0], drawn[1], alternative="greater").statistic / 81
    assert probability_of_improvement(*drawn) == pytest.approx(found)


def test_resamples_stay_within_their_task():
    draws = resample({"a": np.array([1.0, 2.0]), "b": np.array([10.0])}, np.random.default_rng(0), resamples=500)
    assert draws["a"].shape == (500, 2)
    assert set(np.unique(draws["a"])) == {1.0, 2.0}
    assert np.all(draws["b"] == 10.0)


def test_the_interval_of_two_runs_is_that_of_the_exact_bootstrap():
    # Means of two draws of 0 and 1 are 0, 0.5, 1 with 1/4, 1/2, 1/4: the central 95% reaches both ends.
    found = interquartile_interval({"task": np.array([0.0, 1.0])})
    assert (found.low, found.value, found.high) == (0.0, 0.5, 1.0)
    narrow = interquartile_interval({"task": np.array([0.0, 1.0])}, confidence=0.4)
    assert (narrow.low, narrow.high) == (0.5, 0.5)


def test_the_interval_of_a_mean_agrees_with_the_closed_form():
    # With three runs nothing is cut. The variance of a bootstrap mean is that of the population over N.
    scores = np.array([0.0, 0.3, 0.9])
    draws = resample({"": scores}, np.random.default_rng(1), resamples=40_000)[""].mean(axis=1)
    assert draws.var() == pytest.approx(scores.var() / 3, rel=0.03)
    found = interquartile_interval({"": scores}, resamples=40_000, seed=1)
    assert (found.low, found.high) == tuple(np.quantile(draws, (0.025, 0.975)))


def test_strata_count_as_one_sample_of_all_runs_for_the_mean_and_by_task_for_the_probability():
    scores = {"a": np.array([1.0, 2.0]), "b": np.array([10.0, 11.0])}
    assert interquartile_interval(scores).value == 6.0, "the mean of 2 and 10"
    other = {"a": np.array([3.0, 4.0]), "b": np.array([0.0, 0.0])}
    found = improvement_interval(scores, other)
    assert found.value == 0.5, "0 on one task, 1 on the other"
    assert (found.low, found.high) == (0.5, 0.5)


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    rng = np.random.default_rng(3)
    inside = 0
    for trial in range(200):
        found = interquartile_interval({"": rng.normal(size=20)}, resamples=300, seed=trial)
        inside += found.low <= 0.0 <= found.high
    assert 0.86 < inside / 200 < 0.99


def test_a_mean_curve_of_equal_runs_has_no_width():
    mean, low, high = mean_interval(np.array([[0.1, 0.5], [0.1, 0.9]]))
    assert mean.tolist() == pytest.approx([0.1, 0.7])
    assert (low[0], high[0]) == pytest.approx((0.1, 0.1))
    assert (low[1], high[1]) == (0.5, 0.9)
