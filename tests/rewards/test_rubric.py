from __future__ import annotations

import threading

import numpy as np
import pytest

from flexgym import rewards
from flexgym.agents.base import load_agent_settings
from flexgym.algorithm.advantages import advantages_of
from flexgym.config.describe import describe
from flexgym.core.errors import ConfigError, JudgeUnavailableError, UnknownNameError
from flexgym.flow import blended_advantages
from flexgym.reward import PointwiseReward, Reward
from flexgym.rewards.rubric import Rubric, Term
from flexgym.rllib.algorithm import reward_metrics
from flexgym.types import GroupScores, Prompt, SampleGroup
from tests.agents.small import SMALL, merged, small_config
from tests.rewards.test_wrappers import GroupEnv, run


class First(PointwiseReward):
    """The first value of a sample; NaN for 99."""

    def score_samples(self, prompt, samples):
        values = samples[:, 0, 0, 0].astype(np.float64)
        return np.where(values == 99, np.nan, values)


class Second(PointwiseReward):
    """A thousand times the second value of a sample."""

    def score_samples(self, prompt, samples):
        return 1000.0 * samples[:, 0, 0, 1]


def group(*pairs):
    samples = np.zeros((len(pairs), 2, 2, 3), np.uint8)
    samples[:, 0, 0, :2] = pairs
    return SampleGroup(Prompt("a cat"), samples)


GROUPS = [group((1, 9), (2, 5), (6, 7)), group((3, 1), (99, 2), (5, 6))]


def rubric(combine, *weights):
    return Rubric([Term(First(), weight=weights[0]), Term(Second(), weight=weights[1])], combine=combine)


def test_sum_adds_raw_scores():
    first, second = rubric("sum", 2.0, 0.5).score(GROUPS)
    np.testing.assert_allclose(first.rewards, [2 + 4500, 4 + 2500, 12 + 3500])
    np.testing.assert_allclose(second.rewards, [6 + 500, np.nan, 10 + 3000])
    assert first.weights == {}
    np.testing.assert_array_equal(second.terms["first"], [3, np.nan, 5])
    np.testing.assert_array_equal(second.terms["second"], [1000, 2000, 6000])
    assert second.failures == {"first": 1}


def test_gdpo_normalizes_each_term_within_its_group():
    scores = rubric("gdpo", 3.0, 1.0).score(GROUPS[:1])
    assert scores[0].weights == {"first": 0.75, "second": 0.25}
    np.testing.assert_allclose(scores[0].rewards, 0.75 * np.array([1, 2, 6]) + 0.25 * np.array([9, 5, 7]) * 1000)
    found = advantages_of(scores)
    a, b = np.array([1, 2, 6.0]), np.array([9, 5, 7.0])
    expected = 0.75 * (a - 3) / (a.std() + 1e-4) + 0.25 * (b - 7) / (b.std() + 1e-7)
    np.testing.assert_allclose(found[0], expected, atol=1e-4)


def test_with_gdpo_a_sample_keeps_what_the_other_terms_say():
    scores = rubric("gdpo", 1.0, 1.0).score(GROUPS)
    found = advantages_of(scores)
    b = np.array([1, 2, 6.0])
    assert found[1, 1] == pytest.approx(0.5 * (2 - 3) / b.std(), abs=1e-3)
    assert np.isnan(scores[1].rewards[1])


def test_batch_norm_of_gdpo_is_a_setting_of_the_advantage():
    scores = rubric("gdpo", 1.0, 1.0).score(GROUPS)
    terms = {name: np.stack([group.terms[name] for group in scores]) for name in ("first", "second")}
    expected = blended_advantages(terms, {"first": 0.5, "second": 0.5}, batch_norm=True)
    found = advantages_of(scores, batch_norm=True)
    np.testing.assert_allclose(found, expected)
    assert found.std() == pytest.approx(1.0, abs=1e-3)


def test_a_term_without_weight_is_watched_only():
    for combine in ("sum", "gdpo"):
        scores = rubric(combine, 0.0, 1.0).score(GROUPS)[1]
        np.testing.assert_array_equal(scores.rewards, [1000, 2000, 6000])
        np.testing.assert_array_equal(scores.terms["first"], [3, np.nan, 5])
        assert "first" not in scores.weights


def test_statistics_of_each_term_are_metrics():
    scores = rubric("gdpo", 1.0, 1.0).score(GROUPS)
    metrics = reward_metrics(scores, np.ones((2, 3), np.float32))
    assert metrics["reward/first"] == pytest.approx(np.mean([1, 2, 6, 3, 5]))
    assert metrics["reward_unscored_share/first"] == pytest.approx(1 / 6)
    assert metrics["reward_std_within_group/second"] == pytest.approx(
        np.mean([np.std([9, 5, 7]), np.std([1, 2, 6])]) * 1000
    )


def test_info_holds_every_term_and_its_weight():
    terms = [{"reward": "jpeg_compressibility", "weight": 3.0}, {"reward": "jpeg_compressibility", "name": "low"}]
    terms[1]["settings"] = {"quality": 10, "deadline_s": 30}
    env = rewards.Rubric(GroupEnv(1), terms=terms, combine="gdpo")
    info = run(env, 1)[0][4]
    assert set(info["reward_terms"]) == {"jpeg_compressibility", "low"}
    assert info["reward_weights"] == {"jpeg_compressibility": 0.75, "low": 0.25}
    assert env.scorer.rewards["low"].deadline_s == 30


class Judged(Reward):
    """A reward with parts, failures by kind, and metrics of its own."""

    def __init__(self, name="judged"):
        self.name = name

    def score(self, groups):
        values = np.array([1, 2, 3], np.float32)
        terms = {"dim": values / 2, "overall": values}
        pairs = np.array([[0, 1]])
        one = GroupScores(values, terms=terms, failures={"unparsable": 2}, assessments=(self.name,), pairs=pairs)
        return [one for _ in groups]

    def metrics(self):
        return {"requests": 4.0}


def test_parts_failures_and_work_of_a_term_carry_its_name():
    reward = Rubric([Term(Judged("a")), Term(Judged("b")), Term(First())])
    scores = reward.score(GROUPS[:1])[0]
    assert set(scores.terms) == {"a", "a/dim", "b", "b/dim", "first"}
    assert scores.failures == {"a/unparsable": 2, "b/unparsable": 2}
    assert scores.assessments == ("a", "b")
    np.testing.assert_array_equal(scores.pairs, [[0, 1], [0, 1]])
    assert reward.metrics() == {"a/requests": 4.0, "b/requests": 4.0}


class Meeting(PointwiseReward):
    """Scores once as many of its kind are at work as meet."""

    def __init__(self, barrier, name):
        self.barrier, self.name = barrier, name

    def score_samples(self, prompt, samples):
        self.barrier.wait(20)
        return np.ones(len(samples))


def test_terms_work_side_by_side_and_close():
    barrier = threading.Barrier(2)
    reward = Rubric([Term(Meeting(barrier, "a")), Term(Meeting(barrier, "b"))])
    np.testing.assert_array_equal(reward.score(GROUPS[:1])[0].rewards, [2, 2, 2])
    reward.close()
    assert all(term._worker is None for term in reward.rewards.values())


class Broken(Reward):
    """Raises what it is given."""

    def __init__(self, error):
        self.error = error

    def score(self, groups):
        raise self.error


def test_a_term_that_breaks_is_a_failed_score_with_its_name(tmp_path):
    reward = Rubric([Term(Broken(ValueError("no weights"))), Term(First(), name="mine")])
    scores = reward.guarded(GROUPS[:1])[0]
    assert np.isnan(scores.rewards).all()
    assert scores.failures == {"broken": 3}
    np.testing.assert_array_equal(scores.terms["mine"], [1, 2, 6])
    assert {failed.reward for failed in reward.failed.latest()} == {"broken"}
    gone = Rubric([Term(Broken(JudgeUnavailableError("no server"))), Term(First())])
    with pytest.raises(JudgeUnavailableError):
        gone.guarded(GROUPS)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"terms": []}, ConfigError, "expected a list of terms"),
        ({"terms": {"reward": "clip_score"}}, ConfigError, "terms of rubric: expected list"),
        ({"terms": [{"reward": "shapes_orcle"}]}, UnknownNameError, "Did you mean 'ShapesOracle'"),
        ({"terms": [{"reward": "shapes_oracle", "wieght": 1}]}, UnknownNameError, "Did you mean 'weight'"),
        ({"terms": [{"weight": 1}]}, ConfigError, "missing"),
        ({"terms": [{"reward": "shapes_oracle"}] * 2}, ConfigError, "two terms are named 'shapes_oracle'"),
        ({"terms": [{"reward": "shapes_oracle", "weight": 0}]}, ConfigError, "sum of the weights must be positive"),
        ({"terms": [{"reward": "shapes_oracle", "weight": float("nan")}]}, ConfigError, "finite number"),
        ({"terms": [{"reward": "shapes_oracle", "weight": "1"}]}, ConfigError, "finite number"),
        ({"terms": [{"reward": "shapes_oracle", "name": "a/b"}]}, ConfigError, "must not contain '/'"),
        ({"terms": [{"reward": "shapes_oracle"}], "combine": "gdop"}, UnknownNameError, "Did you mean 'gdpo'"),
        ({"terms": [Term(First())], "combined": "sum"}, UnknownNameError, "Did you mean 'combine'"),
    ],
)
def test_rubrics_that_cannot_work_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        rewards.make("Rubric", **settings)


def test_opposite_weights_without_a_sum_are_refused():
    with pytest.raises(ConfigError, match="sum of the weights must be positive"):
        rubric("sum", 1.0, -1.0)
    with pytest.raises(ConfigError, match="built already"):
        Term(First(), settings={"deadline_s": 3})


RECIPE = {
    "reward": {
        "name": "Rubric",
        "settings": {
            "combine": "gdpo",
            "terms": [
                {"reward": "ShapesVerifier", "weight": 2.0},
                {"reward": "tests.rewards.test_rubric:Second", "weight": 1.0},
            ],
        },
        "monitors": ["ShapesVerifier", {"reward": "JPEGCompressibility", "name": "small", "settings": {"quality": 50}}],
    },
    "verification": {"rewards": [{"reward": "tests.rewards.test_rubric.First", "name": "first"}]},
}


def test_a_recipe_makes_the_rubric_the_monitors_and_the_evaluations():
    config = small_config(**RECIPE)
    config.failed_samples = "somewhere/failed"
    reward = config.make_reward()
    assert reward.weights == {"shapes_verifier": 2.0, "second": 1.0}
    assert str(reward.rewards["second"].failed.folder) == "somewhere/failed"
    monitors = config.make_monitors()
    assert set(monitors) == {"ShapesVerifier", "small"}
    assert monitors["small"].quality == 50
    assert isinstance(config.make_evaluations()["first"], Reward)
    again = small_config(**describe(config.settings)).settings
    assert again.reward == config.settings.reward
    assert again.verification == config.settings.verification


@pytest.mark.parametrize(
    ("sections", "error", "message"),
    [
        ({"reward": {"monitors": [{"reward": "ShapesVerifer"}]}}, UnknownNameError, "Did you mean 'ShapesVerifier'"),
        ({"verification": {"rewards": ["no_such:Reward"]}}, ConfigError, "'no_such' cannot be imported"),
        (
            {"verification": {"rewards": ["ShapesVerifier", {"reward": "ShapesVerifier", "name": "ShapesVerifier"}]}},
            ConfigError,
            "a name of its own",
        ),
    ],
)
def test_names_in_a_recipe_are_checked_before_anything_is_loaded(sections, error, message):
    with pytest.raises(error, match=message):
        load_agent_settings(merged(SMALL, sections))
