from __future__ import annotations

import numpy as np
import pytest

from flexgym.judge import Assessment, JudgeFailure
from flexgym.shapes.oracle import OracleJudge
from flexgym.shapes.verifier import verify
from research.judge.measure import TARGETS, figures_of, reliability, table, with_interval
from research.judge.trials import Answers, changed, draw_trials, small_video, unreadable, votes


@pytest.fixture(scope="module", params=["image", "video"])
def trials(request):
    return draw_trials(request.param, None, "validation", count=14, seed=0)


def test_exactly_one_sample_of_a_trial_is_right(trials):
    assert len(trials) == len({trial.caption for trial in trials}) == 14
    assert len({trial.category for trial in trials}) == 7
    for trial in trials:
        met = [verify(trial.caption, sample).satisfied for sample in trial.samples]
        assert met == [trial.right == 0, trial.right == 1]
    assert 0 < sum(trial.right for trial in trials) < 14


def test_changes_reach_the_sides_that_are_named(trials):
    after = changed(trials, small_video)
    assert {trial.samples.shape[-3:] for trial in after} == {(64, 64, 3)}
    for before, ruined in zip(trials, unreadable(trials, sides=(1,)), strict=True):
        assert np.array_equal(before.samples[before.right], ruined.samples[before.right])
        assert not np.array_equal(before.samples[1 - before.right], ruined.samples[1 - before.right])


def test_the_rules_are_right_about_everything_that_they_can_read(trials):
    figures = figures_of(OracleJudge(), [OracleJudge()], trials)
    assert figures["right"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert figures["same in both orders"]["value"] == figures["parsed"] == 1.0
    assert set(figures["by category"].values()) == {1.0}
    assert figures["wrongly calls both unreadable"] == 0.0
    assert figures["confidence"] == {"stated": [1.0] * 14, "right": [1.0] * 14}
    text = table(dict.fromkeys(TARGETS, figures))
    assert text.count("1.000 (1.000 to 1.000)") >= 8
    assert "Expected calibration error: 0.000" in text


def told(winner, reason="More of the caption is met."):
    categories = [
        {"name": name, "dims": [{"name": "d", "score_1": 5, "score_2": 5}], "cat_winner": winner} for name in "ABC"
    ]
    return Assessment.model_validate({"categories": categories, "reason": reason, "winner": winner})


def test_answers_are_counted_by_hand(trials):
    first, second = told("Image 1"), told("Image 2")
    failure, open_ = JudgeFailure("unparsable", "empty"), told("Image 1", "Neither can be read.")
    some = [trial for trial in trials if trial.right == 0][:1] * 4
    answers = Answers(some, [(first, second), (first, first), (failure, second), (open_, open_)])
    assert answers.right().tolist() == [1.0, 0.5, 0.5, 0.0]
    assert answers.consistent().tolist() == [1.0, 0.0, 0.0, 0.0]
    assert answers.parsed().tolist() == [1.0, 1.0, 0.5, 1.0]
    assert answers.cannot_tell().tolist() == [0.0, 0.0, 0.0, 1.0]
    assert answers.by_category() == {some[0].category: 0.5}


class Saying:
    """A judge that always says the same."""

    def __init__(self, outcome):
        self.outcome = outcome

    def assess(self, pairs):
        return [self.outcome] * len(pairs)


def test_confidence_is_the_share_of_equal_votes(trials):
    first, second = Saying(told("Image 1")), Saying(told("Image 2"))
    some = [trial for trial in trials if trial.right == 0][:1]
    for judges, expected in (([first] * 3 + [second], (0.75, 1.0)), ([first, second], (0.5, 0.5))):
        confidence, right = votes(judges, some)
        assert (confidence.tolist(), right.tolist()) == ([expected[0]], [expected[1]])


def test_reliability_by_hand():
    rows, error = reliability(np.array([0.5, 0.7, 1.0, 1.0]), np.array([0.5, 0.0, 1.0, 0.0]))
    assert [(row["verdicts"], row["accuracy"]) for row in rows] == [(1, 0.5), (1, 0.0), (2, 0.5)]
    assert error == pytest.approx(0.25 * 0.7 + 0.5 * 0.5)


def test_an_interval_holds_the_mean():
    found = with_interval(np.array([1.0] * 50 + [0.0] * 50))
    assert found["value"] == 0.5
    assert 0.38 < found["low"] < 0.42
    assert 0.58 < found["high"] < 0.62
