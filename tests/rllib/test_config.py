from __future__ import annotations

import numpy as np
import pytest

from agents.pref_grpo import PrefGRPOConfig
from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.flow import blended_advantages, group_advantages
from flexgym.types import GroupScores

WIN_RATES = [np.array(rates, dtype=np.float32) for rates in ([1.0, 0.25, 0.25], [1.0, 0.5, 0.0])]
SCORES = [
    GroupScores(rates, {"dim": rates[::-1], "overall": rates}, {"dim": 0.7, "overall": 0.3}) for rates in WIN_RATES
]


def advantages(scores, **settings):
    return PrefGRPOConfig().training(**settings).advantages(scores)


def test_terms_with_weights_are_normalised_one_by_one():
    terms = {"dim": [rates[::-1] for rates in WIN_RATES], "overall": WIN_RATES}
    np.testing.assert_array_equal(advantages(SCORES), blended_advantages(terms, SCORES[0].weights))


def test_without_weights_the_reward_is_normalised():
    plain = [GroupScores(rates) for rates in WIN_RATES]
    np.testing.assert_array_equal(advantages(plain), group_advantages(WIN_RATES))
    glob = advantages(plain, advantage={"std": "global", "clip": 1.0})
    np.testing.assert_array_equal(glob, group_advantages(WIN_RATES, std="global", clip=1.0))


def test_the_authors_normalise_the_batch_once_more():
    found = advantages(SCORES, advantage="authors_code")
    assert found.std(ddof=1) == pytest.approx(1.0, abs=1e-5)
    assert advantages(SCORES).std(ddof=1) != pytest.approx(1.0, abs=1e-2)


@pytest.mark.parametrize(
    ("advantage", "alone"),
    [
        ("paper", True),
        ({"clip": 2.0}, True),
        ({"std": "none"}, True),
        ("authors_code", False),
        ({"std": "global"}, False),
        ({"std": "none", "batch_norm": True}, False),
    ],
)
def test_groups_need_each_other_where_something_is_taken_over_the_batch(advantage, alone):
    config = PrefGRPOConfig().training(advantage=advantage)
    assert config.advantages_stay_in_group is alone
    together, first = config.advantages(SCORES)[:1], config.advantages(SCORES[:1])
    assert np.array_equal(together, first) is alone


def test_an_unknown_advantage_is_refused_before_anything_is_loaded():
    with pytest.raises(UnknownNameError, match="Did you mean 'authors_code'"):
        PrefGRPOConfig().training(advantage="author_code").validate()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda config: config.learners(num_learners=4),
            r"multiple of the learners \(learners\.num_learners\), 4, .*; got 6",
        ),
        (lambda config: config.learners(num_learners=8), "got 6, the nearest is 8"),
        (
            lambda config: config.learners(num_learners=2).training(num_updates=2),
            r"learners times training\.num_updates, 4",
        ),
        (lambda config: config.env_runners(num_env_runners=4), "multiple of the env runners times .*, 4"),
    ],
)
def test_groups_that_do_not_divide_are_refused_before_anything_is_loaded(change, message):
    config = PrefGRPOConfig().rollout(prompts_per_iteration=6)
    config.validate()
    with pytest.raises(ConfigError, match=message):
        change(config).validate()
