"""Figures worked by hand from outcomes that follow a script."""

from __future__ import annotations

import math

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.core.intervals import wilson
from flexgym.data import DataError, PreferencePair
from flexgym.judge.protocol import JudgeFailure
from flexgym.judge.verdict import Verdict
from flexgym.judge.vision_judge import VisionJudge
from flexgym.report.gallery import Judged, assessments_payload
from flexgym.report.reading import read_evaluation
from flexgym.rm.evaluation import Evaluation, EvaluationOptions, as_group
from flexgym.rm.evaluation_examples import MAX_OF_CATEGORY, WrongExamples
from flexgym.rm.evaluation_figures import PairResult, Vote, calibrated_accuracy, share, summarize
from flexgym.shapes.oracle import OracleJudge
from tests.rewards.seeing_server import seeing_server


class ScriptedJudge:
    """Says what the prompt begins with, such as ``"12"``: the winner's place in each order, ``x`` for a failure."""

    def __init__(self):
        self.calls = []

    def assess(self, pairs):
        self.calls.append(len(pairs))
        return [self._one(pair) for pair in pairs]

    @staticmethod
    def _one(pair):
        said = pair.prompt.text.split()[0][pair.first]  # the second letter is the reply in the other order
        return JudgeFailure("truncated", "") if said == "x" else Verdict(f"Image {said}")


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    for name, level in {"a": 30, "b": 200}.items():
        Image.new("RGB", (16, 16), (level,) * 3).save(folder / f"{name}.png")
    Image.new("RGB", (24, 16), (90,) * 3).save(folder / "wide.png")
    return folder


def row(media, said, winner, category=None, second="b.png"):
    files = {"first": str(media / "a.png"), "second": str(media / second)}
    return PreferencePair(prompt=f"{said} .", kind="image", winner=winner, category=category, **files)


def judged(media, *told, **options):
    """Results for ``(said, winner, category)``."""
    chosen = EvaluationOptions(**options)
    results = list(Evaluation(ScriptedJudge(), chosen).results([row(media, *each) for each in told]))
    return summarize(results, ties=chosen.ties)


def test_each_figure_of_a_few_pairs(media):
    """In order: right twice; right, then wrong (always the first); wrong twice; a failure and right; two failures."""
    told = [("12", 0, "x"), ("11", 0, "x"), ("12", 1, "y"), ("x1", 1, "y"), ("xx", 0, None)]
    found = judged(media, *told)
    overall = found.overall
    assert (overall.pairs, overall.ties, overall.judgements) == (5, 0, 10)
    assert overall.accuracy.value == (2 + 1 + 0 + 1 + 0) / 10
    assert overall.accuracy_dropped.value == 4 / 7
    assert overall.accuracy_with_ties is None
    assert overall.order_consistency.value == 2 / 3
    assert overall.order_consistency.pairs == 3
    assert overall.first_position_rate.value == (1 + 2 + 1 + 1) / 7
    assert overall.failure_share.value == 3 / 10
    assert overall.failures == {"truncated": 0.3}
    assert list(found.categories) == ["x", "y"]
    assert found.categories["x"].accuracy.value == 3 / 4
    assert found.categories["y"].accuracy.value == 1 / 4
    assert found.categories["y"].accuracy_dropped.value == 1 / 3


def test_examples_that_a_judge_gets_wrong_are_kept_with_samples_and_replies(media, tmp_path):
    examples = WrongExamples()
    told = [("12", 0, "x"), ("11", 0, "x"), ("12", 1, "y"), ("x2", 1, "y"), *[("12", 1, "z")] * 20]
    list(Evaluation(ScriptedJudge(), on_pair=examples.add).results([row(media, *each) for each in told]))
    examples.write(tmp_path)
    kept = read_evaluation(tmp_path).examples
    assert [group.category for group in kept] == ["y", "y", *["z"] * MAX_OF_CATEGORY]
    assert all(uri.startswith("data:image/webp") for group in kept for uri in group.media)
    items = assessments_payload([Judged("judge", None, group) for group in kept[:2]]).values["items"]
    assert [(item["winner"], item["label"], item["failure"]) for item in items] == [
        (0, 1, ""),
        (1, 0, ""),
        (None, 1, "truncated"),
        (1, 0, ""),
    ]


def test_a_judge_that_always_takes_the_first_is_right_half_the_time(media):
    found = judged(media, *[("11", number % 2) for number in range(8)]).overall
    assert found.accuracy.value == 0.5
    assert found.order_consistency.value == 0.0
    assert found.first_position_rate.value == 1.0
    assert found.accuracy.low < 0.3 < 0.7 < found.accuracy.high


def test_ties_are_left_out_or_scored(media):
    """With ties: right in both orders, a tie that is one, a tie that is none, none that is a tie, and a failure."""
    told = [("12", 0), ("11", None), ("22", 1), ("12", None), ("x2", 0)]
    scored = judged(media, *told, ties="scored").overall
    assert scored.accuracy_with_ties.value == 2 / 5
    assert scored.accuracy.value == (2 + 1 + 1) / 6
    assert (scored.judgements, scored.ties) == (10, 2)
    left = judged(media, *told).overall
    assert left.accuracy == scored.accuracy
    assert left.accuracy_with_ties is None
    assert (left.pairs, left.judgements, left.ties) == (5, 6, 2)


def test_a_failure_in_both_orders_is_no_tie():
    votes = (Vote(False, None, "refused"), Vote(True, None, "refused"))
    found = summarize([PairResult("1", None, None, votes)], ties="scored").overall
    assert found.accuracy_with_ties.value == 0.0
    assert found.accuracy.pairs == 0
    assert math.isnan(found.accuracy.value)


def led(lead, label, failed=False):
    """A pair that one judgment in each order gives such a lead; the swapped one sees it from the other side."""
    second = Vote(True, None, "refused") if failed else Vote(True, int(lead > 0), margin=-lead)
    return PairResult(None, None, label, (Vote(False, int(lead < 0), margin=lead), second))


def test_a_small_lead_may_be_a_tie():
    """At a threshold of 1: two ties and the two large leads are right; the failed pair is wrong whatever it says."""
    told = [led(1, None), led(-1, None), led(4, 0), led(-3, 1), led(9, 0, failed=True)]
    assert calibrated_accuracy(told) == 4 / 5
    assert calibrated_accuracy([*told, led(6, 1)]) == 4 / 6
    assert calibrated_accuracy([led(2, 0), led(2, None)]) == 1 / 2  # no threshold lies between two equal leads
    assert calibrated_accuracy([led(2, 0, failed=True)]) == 0.0
    assert calibrated_accuracy([led(0, None), led(5, None)]) == 1.0
    assert summarize(told, ties="scored").overall.accuracy_with_leads == 4 / 5
    assert summarize(told).overall.accuracy_with_leads is None
    assert summarize([led(0, None)], ties="scored").overall.accuracy_with_leads is None  # no points, no threshold


def said(label, *sides):
    """A pair with one vote per order: the side it names, ``"tie"`` or a kind of failure."""
    votes = [
        Vote(place == 1, side ^ place) if isinstance(side, int) else Vote(place == 1, None, side)
        for place, side in enumerate(sides)
    ]
    return PairResult(None, None, label, tuple(votes))


def test_strict_and_tie_aware_figures_by_hand():
    """In order: right, wrong, orders that differ, a tie twice, a tie and right, a failure and right, a tied label."""
    results = [
        said(0, 0, 0),
        said(1, 0, 0),
        said(1, 0, 1),
        said(0, "tie", "tie"),
        said(0, "tie", 0),
        said(1, "refused", 1),
        said(None, 0, 0),
    ]
    found = summarize(results).overall
    assert (found.strict.value, found.strict.pairs) == (1 / 6, 6)
    assert (found.tie_aware.value, found.tie_aware.pairs) == ((1 + 0.5 + 0.5 + 0.5) / 6, 6)
    once = summarize([said(0, 0), said(0, 1), said(0, "tie"), said(1, "truncated")]).overall
    assert (once.strict.value, once.tie_aware.value) == (1 / 4, 1.5 / 4)


def test_ties_of_the_judge_agree_with_tied_labels():
    results = [said(None, "tie", "tie"), said(None, 0, "tie"), said(0, "tie", "tie"), said(None, "refused", "tie")]
    assert summarize(results, ties="scored").overall.accuracy_with_ties.value == 2 / 4


def test_one_order_halves_the_calls(media):
    found = judged(media, ("11", 0), ("22", 0), ("12", 1), orders="given", ties="scored").overall
    assert found.judgements == 3
    assert found.accuracy.value == 1 / 3
    assert found.order_consistency.pairs == 0
    assert found.accuracy_with_ties is None


def test_a_coin_turns_about_half_of_the_pairs(media):
    """A judge that takes the first of pairs whose first always wins is no better than the coin."""
    rows = [row(media, "11", 0).model_copy(update={"id": str(number)}) for number in range(200)]
    results = list(Evaluation(ScriptedJudge(), EvaluationOptions(orders="shuffled")).results(rows))
    assert 0.35 < summarize(results).overall.accuracy.value < 0.65
    assert results == list(Evaluation(ScriptedJudge(), EvaluationOptions(orders="shuffled")).results(rows))


def test_rows_are_taken_a_batch_at_a_time(media):
    taken = []

    def rows():
        for number in range(7):
            taken.append(number)
            yield row(media, "12", 0)

    judge = ScriptedJudge()
    results = Evaluation(judge, EvaluationOptions(batch=3)).results(rows())
    next(results)
    assert len(taken) == 3
    list(results)
    assert judge.calls == [6, 6, 2]


def test_media_that_cannot_be_shown_are_counted_apart(media):
    broken = media / "broken.png"
    broken.write_bytes(b"\x89PNG nothing")
    evaluation = Evaluation(ScriptedJudge())
    rows = [row(media, "12", 0), row(media, "12", 0, second="broken.png"), row(media, "21", 0, second="gone.png")]
    assert [result.verdict for result in evaluation.results(rows)] == [0]
    assert evaluation.unusable == {"unreadable_media": 1, "missing_file": 1}


def test_sizes_that_differ_go_to_models_only(media):
    pair = row(media, "12", 0, second="wide.png")
    with pytest.raises(ConfigError, match="samples of the same size"):
        list(Evaluation(OracleJudge()).results([pair]))
    assert [sample.shape for sample in as_group(pair, 8).samples] == [(16, 16, 3), (16, 24, 3)]


def test_a_vision_judge_is_asked_in_both_orders(media):
    """The server prefers the brighter image, so the wide one loses to b and beats a."""

    def brighter(means, text):
        return f"<think>\n</think>\n<answer>Image {1 if means[0] > means[1] else 2} is better</answer>"

    from flexgym.judge.backends.opening import open_backend
    from flexgym.judge.dialect import THINK

    with seeing_server(brighter, record=True) as server:
        backend = open_backend(server.url)
        rows = [row(media, "-", 1), row(media, "-", 1, second="wide.png"), row(media, "-", 0)]
        results = list(Evaluation(VisionJudge(backend, dialect=THINK)).results(rows))
        backend.close()
    assert len(server.bodies) == 6
    assert [[vote.position for vote in result.votes] for result in results] == [[1, 0]] * 3
    assert summarize(results).overall.accuracy.value == pytest.approx(2 / 3)


@pytest.mark.parametrize("count", [1, 7, 40, 1000])
@pytest.mark.parametrize("share_right", [0.0, 0.3, 1.0])
def test_whole_pairs_have_the_interval_of_wilson(count, share_right):
    right = round(count * share_right)
    expected = stats.binomtest(right, count).proportion_ci(0.95, method="wilson")
    assert wilson(right / count, count) == pytest.approx((expected.low, expected.high), abs=1e-12)
    for whole in (1, 2):
        found = share([whole] * right + [0] * (count - right), [whole] * count)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
        assert found.pairs == count


def test_mixed_pairs_have_the_interval_of_their_spread():
    """Against the normal interval of a mean, with the standard deviation of what pairs are worth."""
    right = [2] * 500 + [1] * 300 + [0] * 200
    found = share(right, [2] * 1000)
    worth = np.array(right) / 2
    half = 1.96 * worth.std() / math.sqrt(1000)
    assert found.value == 0.65
    assert (found.low, found.high) == pytest.approx((0.65 - half, 0.65 + half), abs=0.004)
    assert share(right, [2] * 1000) == found


def test_two_orders_of_a_pair_are_one_observation():
    once, twice = share([1] * 30 + [0] * 10, [1] * 40), share([2] * 30 + [0] * 10, [2] * 40)
    assert once == twice


def test_what_cannot_work_is_told():
    with pytest.raises(UnknownNameError, match="Did you mean 'shuffled'"):
        EvaluationOptions(orders="shufled")
    with pytest.raises(ConfigError, match="batch"):
        EvaluationOptions(batch=0)
    with pytest.raises(DataError, match="at least one pair"):
        summarize([])
