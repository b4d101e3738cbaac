from __future__ import annotations

import numpy as np

from flexgym.algorithm.advantages import advantages_of
from flexgym.algorithm.gate import gated_weights
from flexgym.flow import GateSchedule, diversity_advantages, doubtful, overrating
from flexgym.types import GroupScores

RNG = np.random.default_rng(4)
MAIN = RNG.normal(size=(5, 8)).astype(np.float32)
OTHERS = [RNG.normal(size=(5, 8)).astype(np.float32) for _ in range(2)]


def scores(values):
    return [GroupScores(row) for row in values]


def test_the_mean_with_weights_is_that_over_doubtful_samples():
    schedule, weights = gated_weights(GateSchedule(share=0.2), scores(MAIN), OTHERS)
    ranked = overrating(MAIN.ravel(), [other.ravel() for other in OTHERS])
    chosen = doubtful(ranked, 0.2).reshape(MAIN.shape)
    assert schedule == GateSchedule(share=0.2).after(ranked)
    assert 0 < chosen.sum() < 10
    distance = RNG.normal(size=MAIN.shape)
    np.testing.assert_allclose((distance * weights).mean(), distance[chosen].mean(), rtol=1e-6)


def test_unscored_samples_are_never_doubtful():
    main, other = MAIN.copy(), OTHERS[0].copy()
    main[0], other[1] = np.nan, np.nan
    _, weights = gated_weights(GateSchedule(share=0.2), scores(main), [other])
    assert not weights[:2].any()
    assert weights[2:].any()
    same, none = gated_weights(GateSchedule(), scores(np.full_like(main, np.nan)), OTHERS)
    assert same == GateSchedule()
    assert not none.any()


def test_samples_that_every_reward_ranks_alike_are_not_held():
    _, weights = gated_weights(GateSchedule(), scores(MAIN), [MAIN, MAIN])
    assert not weights.any()


def test_diversity_weighs_good_samples_before_the_selection():
    distances = np.abs(OTHERS[0])
    plain = advantages_of(scores(MAIN), std="none", clip=None, diversity="d", monitors={"d": distances})
    np.testing.assert_allclose(plain, diversity_advantages(MAIN, distances), rtol=1e-5, atol=1e-6)
    best = advantages_of(scores(MAIN), std="none", best=1, diversity="d", monitors={"d": distances})
    assert ((best != 0).sum(axis=1) == 1).all()
