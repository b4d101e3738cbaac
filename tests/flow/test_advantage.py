from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from flexgym.config.training import ADVANTAGES
from flexgym.core.errors import ConfigError, RewardError, UnknownNameError
from flexgym.flow import (
    blended_advantages,
    group_advantages,
    informative_groups,
    keep_extremes,
    preference_scores,
    standardized,
)
from tests.flow.vectors import close, vector

NAN = math.nan
tables = arrays(
    np.float64, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=st.floats(-10, 10).map(lambda x: round(x, 2))
)


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_group_std_by_hand():
    # means 2 and 20, population standard deviations 1 and 10
    result = group_advantages([[1.0, 3.0], [10.0, 30.0]], eps=0.0)
    assert result.tolist() == [[-1.0, 1.0], [-1.0, 1.0]]
    assert result.dtype == np.float32


def test_global_std_by_hand():
    # the standard deviation of (0, 4, 2, 2) is sqrt(2)
    result = group_advantages([[0.0, 4.0], [2.0, 2.0]], std="global", eps=0.0)
    np.testing.assert_allclose(result, [[-math.sqrt(2), math.sqrt(2)], [0.0, 0.0]], rtol=1e-6)


def test_global_std_keeps_a_nearly_equal_group_quiet():
    rewards = [[0.0, 1.0], [0.50, 0.51]]
    loud, quiet = group_advantages(rewards, eps=0.0)[1], group_advantages(rewards, std="global", eps=0.0)[1]
    assert loud[1] == pytest.approx(1.0)
    assert 0 < quiet[1] < 0.02


def test_without_std_a_group_counts_by_its_differences():
    result = group_advantages([[0.0, 1.0], [0.5, 0.75], [0.2, 0.2]], std="none", eps=9.0)
    assert result.tolist() == [[-0.5, 0.5], [-0.125, 0.125], [0.0, 0.0]]
    blend = blended_advantages({"dim": [[0.0, 1.0]], "overall": [[3.0, 0.0]]}, {"dim": 0.5, "overall": 0.5}, std="none")
    assert blend.tolist() == [[0.5, -0.5]]


def test_eps_is_added_to_the_standard_deviation():
    assert group_advantages([[0.0, 2.0]], eps=1.0).tolist() == [[-0.5, 0.5]]


def test_unscored_samples_take_no_part():
    result = group_advantages([[1.0, NAN, 3.0], [NAN, NAN, NAN]], eps=0.0)
    assert result.tolist() == [[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    glob = group_advantages([[1.0, NAN, 3.0], [NAN, 2.0, 2.0]], std="global", eps=0.0)
    np.testing.assert_allclose(glob, np.array([[-1, 0, 1], [0, 0, 0]]) * math.sqrt(2), rtol=1e-6)  # std of 1, 3, 2, 2


@pytest.mark.parametrize("std", ["group", "global", "none"])
def test_groups_that_tell_nothing_have_exactly_zero_advantage(std):
    rewards = [[0.7, NAN, NAN], [0.1, 0.1, 0.1], [1e6 + 0.1, 1e6 + 0.1, 1e6 + 0.1], [0.0, 1.0, 2.0]]
    result = group_advantages(rewards, std=std, eps=0.0)
    assert not result[:3].any()
    assert result[3].any()


@pytest.mark.parametrize("shape", [(0, 4), (2, 0), (1, 1)])
def test_tiny_tables(shape):
    result = group_advantages(np.ones(shape))
    assert result.shape == shape
    assert not result.any()


def test_clip_by_hand():
    rewards = [[0.0] * 99 + [1.0]]  # the odd one is sqrt(99) = 9.95 standard deviations from the mean
    assert group_advantages(rewards, eps=0.0)[0, -1] == 5.0
    assert group_advantages(rewards, eps=0.0, clip=2.0)[0, -1] == 2.0
    assert group_advantages(rewards, eps=0.0, clip=None)[0, -1] == pytest.approx(math.sqrt(99))


@settings(max_examples=60, deadline=None)
@given(rewards=tables, seed=st.integers(0, 99), std=st.sampled_from(["group", "global", "none"]))
def test_properties(rewards, seed, std):
    holes = np.random.default_rng(seed).random(rewards.shape) < 0.3
    rewards = np.where(holes, NAN, rewards)
    result = group_advantages(rewards, std=std, clip=None).astype(np.float64)
    assert np.isfinite(result).all()
    assert not result[holes].any()
    np.testing.assert_allclose(result.sum(axis=1), 0.0, atol=1e-3)
    np.testing.assert_allclose(group_advantages(rewards + 3.0, std=std, clip=None), result, atol=1e-4)
    dense = group_advantages(rewards[:, ~holes.all(axis=0)], std=std, clip=None)
    np.testing.assert_allclose(dense, result[:, ~holes.all(axis=0)], atol=1e-5)


def test_blend_by_hand():
    terms = {"dim": [[0.0, 1.0]], "overall": [[100.0, 0.0]]}  # z = (-1, 1) and (1, -1), whatever their scale
    result = blended_advantages(terms, {"overall": 0.3, "dim": 0.7}, eps=0.0)
    np.testing.assert_allclose(result, [[-0.4, 0.4]], rtol=1e-6)


def test_blend_of_one_term_is_its_advantage():
    rewards = [[0.0, 0.3, 1.0], [0.2, NAN, 0.9]]
    np.testing.assert_array_equal(blended_advantages({"win": rewards}, {"win": 1.0}), group_advantages(rewards))


def test_blend_uses_what_is_scored():
    terms = {"a": [[0.0, 2.0, NAN]], "b": [[NAN, 0.0, 2.0]]}
    assert blended_advantages(terms, {"a": 1.0, "b": 0.5}, eps=0.0).tolist() == [[-1.0, 0.5, 0.5]]


def test_blend_clips_the_sum_and_not_the_terms():
    odd_one = [[0.0] * 99 + [1.0]]
    terms = {"a": odd_one, "b": odd_one}
    assert blended_advantages(terms, {"a": 0.2, "b": 0.2}, eps=0.0)[0, -1] == pytest.approx(0.4 * math.sqrt(99))
    assert blended_advantages(terms, {"a": 1.0, "b": 1.0}, eps=0.0)[0, -1] == 5.0


def test_batch_norm_by_hand():
    # sums (-2, 2) and (0, 0), one sample unscored: standard deviation of (-2, 2, 0, 0) is sqrt(2)
    terms = {"a": [[0.0, 1.0, NAN], [1.0, 1.0, NAN]], "b": [[0.0, 1.0, NAN], [1.0, 1.0, NAN]]}
    result = blended_advantages(terms, {"a": 1.0, "b": 1.0}, eps=0.0, batch_norm=True)
    np.testing.assert_allclose(result, np.array([[-1, 1, 0], [0, 0, 0]]) * math.sqrt(2), rtol=1e-6)


def test_standard_deviation_of_a_sample_by_hand():
    # deviations -1 and 1: population 1, sample sqrt(2); over (1, 3, 2, 2): sqrt(2 / 3)
    group = group_advantages([[1.0, 3.0], [NAN, 2.0]], ddof=1, eps=0.0)
    np.testing.assert_allclose(group, [[-math.sqrt(0.5), math.sqrt(0.5)], [0.0, 0.0]], rtol=1e-6)
    glob = group_advantages([[1.0, 3.0], [2.0, 2.0]], std="global", ddof=1, eps=0.0)
    np.testing.assert_allclose(glob, [[-math.sqrt(1.5), math.sqrt(1.5)], [0.0, 0.0]], rtol=1e-6)


def test_one_sample_has_no_deviation():
    for std in ("group", "global"):
        assert group_advantages([[1.0, NAN]], std=std, ddof=1, eps=0.0).tolist() == [[0.0, 0.0]]


def test_batch_norm_with_the_deviation_of_a_sample_by_hand():
    # z with sample deviations: (-1, 1) / sqrt(2) in both groups; the four have sample std sqrt(4 * 0.5 / 3)
    result = blended_advantages({"a": [[0.0, 1.0], [0.0, 5.0]]}, {"a": 1.0}, eps=0.0, ddof=1, batch_norm=True)
    np.testing.assert_allclose(np.abs(result), math.sqrt(0.5) / math.sqrt(2 / 3), rtol=1e-6)


def test_refusals():
    with pytest.raises(ConfigError, match=r"ddof must be 0 \(population\) or 1 \(sample\), got 2"):
        group_advantages([[1.0, 2.0]], ddof=2)
    with pytest.raises(ConfigError, match=r"must be \[P, G\].*\(3,\)"):
        group_advantages([1.0, 2.0, 3.0])
    with pytest.raises(RewardError, match="1 infinite rewards"):
        group_advantages([[1.0, math.inf]])
    with pytest.raises(UnknownNameError, match="Did you mean 'global'"):
        group_advantages([[1.0]], std="globl")
    with pytest.raises(ConfigError, match="eps must be at least 0"):
        group_advantages([[1.0]], eps=-1.0)
    with pytest.raises(ConfigError, match="clip must be positive"):
        group_advantages([[1.0]], clip=0.0)


@pytest.mark.parametrize(
    ("terms", "weights", "error", "message"),
    [
        ({}, {}, ConfigError, "at least one term"),
        ({"dim": [[1.0]]}, {"dim": 1.0, "dims": 1.0}, UnknownNameError, "Did you mean 'dim'"),
        ({"dim": [[1.0]], "overall": [[1.0]]}, {"dim": 1.0}, ConfigError, r"\['overall'\] have no weight"),
        ({"dim": [[1.0]]}, {"dim": 0.0}, ConfigError, "not all 0"),
        ({"dim": [[1.0]]}, {"dim": NAN}, ConfigError, "finite"),
        ({"a": [[1.0]], "b": [[1.0, 2.0]]}, {"a": 1.0, "b": 1.0}, ConfigError, "same shape"),
    ],
)
def test_blend_refusals(terms, weights, error, message):
    with pytest.raises(error, match=message):
        blended_advantages(terms, weights)


def over_all(scores):
    """Normalize over all samples, as GDPO does."""
    return standardized(scores.reshape(1, -1), ddof=1, eps=1e-8).reshape(scores.shape)


def test_pref_grpo():
    given, expected = vector("pref_grpo_advantage")
    overall, dim, clip = (given[name].numpy() for name in ("win_rate_overall", "win_rate_dim_mean", "clip_score"))
    options = {"ddof": 1, "eps": 1e-8}
    other = float(given["weight_clip"]) * standardized(clip, **options)
    flex = preference_scores(overall, dim, alpha=float(given["dim_weight"]))
    close(standardized(overall, **options) + other, expected["without_gdpo_flex_plus_clip"])
    close(over_all(flex + other), expected["gdpo_flex_plus_clip"])
    close(over_all(flex), expected["gdpo_flex_only"])
    partial = preference_scores(
        overall, dim, alpha=float(given["dim_weight"]), scored_PG=given["dim_mask_partial"].numpy()
    )
    close(over_all(partial), expected["gdpo_flex_only_partial_mask"])
    weights = {"dim": 0.3, "overall": 0.7}
    blend = blended_advantages(
        {"dim": dim, "overall": overall}, weights, **ADVANTAGES["authors_code"].model_dump(exclude={"best", "worst"})
    )
    close(blend, over_all(flex).astype(np.float32))


def test_unscored_dimensions_fall_back_to_the_overall_advantage():
    overall, dim = [[0.0, 1.0, 0.5]], [[1.0, 0.0, NAN]]
    found = preference_scores(overall, dim, alpha=0.25, ddof=0, eps=0.0)
    z = standardized(overall, eps=0.0)
    close(found, [[0.75 * z[0, 0] + 0.25, 0.75 * z[0, 1] - 0.25, z[0, 2]]])


def test_the_best_and_the_worst_stay():
    advantages = [[0.5, -1.0, 2.0, 0.0, -0.2], [1.0, 1.0, 1.0, 1.0, 1.0]]
    found = keep_extremes(advantages, best=1, worst=2)
    assert found.tolist() == [[0.0, -1.0, 2.0, 0.0, -0.2], [1.0, 1.0, 0.0, 0.0, 0.0]]
    assert keep_extremes(advantages, best=9, worst=0).tolist() == advantages
    assert keep_extremes([advantages], best=1, worst=2)[0].tolist() == found.tolist()
    assert keep_extremes(advantages[0], best=0, worst=1).tolist() == [0.0, -1.0, 0.0, 0.0, 0.0]


def test_groups_that_are_worth_training_on():
    given, expected = vector("edit_r1_group_filter")
    rewards = given["rewards_PG"].numpy()
    close(rewards.std(axis=1), expected["std_population"])
    close(rewards.mean(axis=1), expected["mean"])
    options = {"min_std": float(given["min_std"]), "max_mean": float(given["max_mean"])}
    assert informative_groups(rewards, **options).tolist() == [bool(kept) for kept in expected["kept"]]
    assert informative_groups([[NAN, NAN], [0.1, NAN], [0.7, 0.7], [0.1, 0.11]], min_std=0.0).tolist() == [
        False,
        False,
        False,
        True,
    ]


def test_further_refusals():
    with pytest.raises(ConfigError, match="alpha"):
        preference_scores([[1.0]], [[1.0]], alpha=1.5)
    with pytest.raises(ConfigError, match="same shape"):
        preference_scores([[1.0, 2.0]], [[1.0]])
    with pytest.raises(ConfigError, match="best=0, worst=0"):
        keep_extremes([[1.0]], best=0, worst=0)
    with pytest.raises(UnknownNameError, match="Did you mean 'group'"):
        standardized([[1.0]], std="groups")
