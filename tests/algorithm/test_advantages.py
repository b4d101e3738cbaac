from __future__ import annotations

import numpy as np
import pytest

from flexgym.algorithm.advantages import advantages_of
from flexgym.config import AdvantageSettings, TrainingSettings
from flexgym.flow import blended_advantages, group_advantages
from flexgym.types import GroupScores

WIN_RATES = [np.array(rates, dtype=np.float32) for rates in ([1.0, 0.25, 0.25], [1.0, 0.5, 0.0])]
SCORES = [
    GroupScores(rates, {"dim": rates[::-1], "overall": rates}, {"dim": 0.7, "overall": 0.3}) for rates in WIN_RATES
]


def options(advantage="paper") -> AdvantageSettings:
    return TrainingSettings.model_validate({"advantage": advantage}).advantage


def advantages(scores, advantage="paper"):
    return advantages_of(scores, **dict(options(advantage)))


def test_terms_with_weights_are_normalized_one_by_one():
    terms = {"dim": [rates[::-1] for rates in WIN_RATES], "overall": WIN_RATES}
    np.testing.assert_array_equal(advantages(SCORES), blended_advantages(terms, SCORES[0].weights))


def test_without_weights_the_reward_is_normalized():
    plain = [GroupScores(rates) for rates in WIN_RATES]
    np.testing.assert_array_equal(advantages(plain), group_advantages(WIN_RATES))
    glob = advantages(plain, advantage={"std": "global", "clip": 1.0})
    np.testing.assert_array_equal(glob, group_advantages(WIN_RATES, std="global", clip=1.0))


def test_the_authors_normalize_the_batch_once_more():
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
    assert options(advantage).stay_in_group is alone
    together, first = advantages(SCORES, advantage)[:1], advantages(SCORES[:1], advantage)
    assert np.array_equal(together, first) is alone
