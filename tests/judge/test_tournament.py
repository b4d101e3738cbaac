from __future__ import annotations

from typing import get_type_hints

import numpy as np
import pytest

from flexgym.algorithm.advantages import advantages_of
from flexgym.core.errors import ConfigError, JudgeFailureShareError, RewardError, UnknownNameError
from flexgym.flow.advantage import blended_advantages
from flexgym.judge import JudgeFailure, Tournament, all_pairs, judge_groups, make_tournament, tournament_scores
from flexgym.judge.failures import FEWEST_FOR_SHARE
from flexgym.judge.tournament import TournamentSettings
from flexgym.types import Prompt, SampleGroup
from tests.judge.simulated import group, verdict

FAILED = JudgeFailure("invalid", "winner: Field required")


class BrightnessJudge:
    """Prefers the brighter sample; pairs that hold a sample of value 99 fail."""

    def __init__(self):
        self.calls = 0
        self.asked = []

    def assess(self, pairs):
        self.calls += 1
        self.asked += [(pair.first, pair.second) for pair in pairs]
        return [self._one(*(sample.max() for sample in pair.samples)) for pair in pairs]

    @staticmethod
    def _one(first, second):
        return FAILED if 99 in (first, second) else verdict(1 if first > second else 2)


def test_group_of_three_by_hand():
    pairs = np.array([[0, 1], [1, 2], [2, 0]])
    outcomes = [verdict(1, 1, 2, 1), verdict(1, 2, 2, 2), verdict(2, 1, 2, 2)]
    # overall: 0 beats 1, 1 beats 2, 0 beats 2.
    # A: 0 beats 1, 2 beats 1, 2 beats 0;   B: 1 beats 0, 2 beats 1, 0 beats 2;   C: 0 beats 1, 2 beats 1, 0 beats 2.
    scores = tournament_scores(pairs, outcomes, 3)
    np.testing.assert_allclose(scores.terms["overall"], [1, 0.5, 0])
    np.testing.assert_allclose(scores.terms["dim"], [(0.5 + 0.5 + 1) / 3, (0 + 0.5 + 0) / 3, (1 + 0.5 + 0.5) / 3])
    np.testing.assert_allclose(scores.rewards, [0.7 * 2 / 3 + 0.3, 0.7 / 6 + 0.15, 0.7 * 2 / 3], rtol=1e-6)
    assert scores.weights == {"dim": 0.7, "overall": pytest.approx(0.3)}
    assert scores.rewards.dtype == scores.terms["dim"].dtype == np.float32
    assert scores.failures == {}
    assert scores.assessments == tuple(outcomes)


def test_failures_leave_the_count_and_are_counted():
    pairs = all_pairs(4)
    outcomes = [verdict(1), FAILED, JudgeFailure("unparsable", ""), verdict(2), verdict(1), verdict(2)]
    # Valid: 0 beats 1, 0 beats 3, 0 beats 2, 1 beats 3.  Comparisons: three of 0, two of 1 and 3, one of 2.
    scores = tournament_scores(pairs, outcomes, 4, tournament=Tournament(min_comparisons=1))
    np.testing.assert_allclose(scores.rewards, [1, 0.5, 0, 0], rtol=1e-6)
    assert scores.failures == {"invalid": 1, "unparsable": 1}


def test_too_few_valid_comparisons_leave_a_sample_unscored():
    outcomes = [verdict(1), FAILED, FAILED, verdict(2), verdict(1), verdict(2)]
    scores = tournament_scores(all_pairs(4), outcomes, 4)
    np.testing.assert_array_equal(np.isnan(scores.rewards), [False, False, True, False])
    assert np.isnan(scores.terms["dim"][2])
    assert np.isnan(scores.terms["overall"][2])
    assert scores.mean == pytest.approx(0.5)


def test_a_group_of_two_needs_its_only_comparison():
    scored = tournament_scores(all_pairs(2), [verdict(2)], 2)
    np.testing.assert_array_equal(scored.rewards, [0, 1])
    failed = tournament_scores(all_pairs(2), [FAILED], 2)
    assert np.isnan(failed.rewards).all()
    assert np.isnan(failed.mean)


def test_rewards_average_one_half_when_nothing_fails():
    rng = np.random.default_rng(0)
    outcomes = [verdict(*rng.integers(1, 3, size=4)) for _ in range(28)]
    assert tournament_scores(all_pairs(8), outcomes, 8).mean == pytest.approx(0.5)


@pytest.mark.parametrize(("alpha", "term"), [(1.0, "dim"), (0.0, "overall")])
def test_alpha_chooses_between_the_terms(alpha, term):
    scores = tournament_scores(all_pairs(2), [verdict(1, 2, 2, 1)], 2, tournament=Tournament(alpha=alpha))
    np.testing.assert_array_equal(scores.rewards, scores.terms[term])


def test_judge_groups_asks_once_for_all_groups():
    judge = BrightnessJudge()
    first, second = judge_groups(judge, [group([30, 10, 20]), group([5, 99, 7, 6])])
    assert judge.calls == 1
    np.testing.assert_allclose(first.rewards, [1, 0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(second.rewards, [0, np.nan, 1, 0.5], rtol=1e-6)
    assert second.failures == {"invalid": 3}


def test_judge_must_answer_once_per_pair():
    class Mute:
        def assess(self, pairs):
            return []

    with pytest.raises(RewardError, match="one outcome per pair: expected 3, got 0"):
        judge_groups(Mute(), [group([1, 2, 3])])
    with pytest.raises(RewardError, match="one judgment per pair"):
        tournament_scores(all_pairs(3), [FAILED], 3)


def test_pairs_of_one_first_sample_stand_together():
    judge = BrightnessJudge()
    scores = judge_groups(judge, [group(range(8))], tournament=Tournament(both_orders=True))[0]
    firsts = [first for first, _ in judge.asked]
    assert firsts == sorted(firsts)
    assert scores.pairs.tolist() == [list(pair) for pair in judge.asked]


def test_both_orders_ask_about_every_pair_twice():
    judge = BrightnessJudge()
    scores = judge_groups(judge, [group([30, 10, 20])], tournament=Tournament(both_orders=True))[0]
    assert sorted(judge.asked) == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    np.testing.assert_allclose(scores.rewards, [1, 0, 0.5])


def test_swiss_asks_once_a_round_for_all_groups():
    judge = BrightnessJudge()
    scores = judge_groups(judge, [group(range(8)), group(range(6))], tournament=Tournament("swiss(3)"))
    assert judge.calls == 3
    assert [len(score.pairs) for score in scores] == [12, 9]
    assert scores[0].rewards[7] == 1.0
    assert scores[0].rewards[0] == 0.0


def test_the_same_group_gets_the_same_pairs_wherever_it_is_judged():
    settings = Tournament("regular(2)")
    one, two = group(range(12)), group(range(12), text="another prompt")
    together = judge_groups(BrightnessJudge(), [two, one], tournament=settings)
    alone = judge_groups(BrightnessJudge(), [one], tournament=settings)[0]
    other_seed = judge_groups(BrightnessJudge(), [one], tournament=Tournament("regular(2)", seed=1))[0]
    np.testing.assert_array_equal(together[1].pairs, alone.pairs)
    assert together[0].pairs.tolist() != alone.pairs.tolist()
    assert other_seed.pairs.tolist() != alone.pairs.tolist()


def test_where_the_schedule_has_few_comparisons_all_of_them_are_needed():
    # one anchor: everyone else has a single comparison, and the one with the failing sample 99 is lost
    scores = judge_groups(BrightnessJudge(), [group([30, 10, 99, 20])], tournament=Tournament("anchor(1)"))[0]
    anchor = np.bincount(scores.pairs.ravel()).argmax()
    expected = [False] * 4 if anchor != 2 else [True] * 4
    expected[2] = True
    np.testing.assert_array_equal(np.isnan(scores.rewards), expected)


def with_references(samples, references):
    return SampleGroup(Prompt("brightest"), group(samples).samples, group(references).samples)


def test_references_make_the_scalar_reward_and_not_the_advantage():
    judge = BrightnessJudge()
    anchored = judge_groups(judge, [with_references([30, 10, 20, 40], [29, 11, 19, 41])])[0]
    plain = judge_groups(BrightnessJudge(), [group([30, 10, 20, 40])])[0]
    np.testing.assert_array_equal(anchored.win_rate_vs_reference, [1, 0, 1, 0])
    assert anchored.mean == 0.5
    for name in ("dim", "overall"):
        np.testing.assert_array_equal(anchored.terms[name], plain.terms[name])
    np.testing.assert_array_equal(anchored.rewards, plain.rewards)
    assert anchored.weights == plain.weights
    assert plain.win_rate_vs_reference is None
    # sample i and reference 4 + i, each side in front twice, and one more judgment for each sample
    met = [pair for pair in judge.asked if max(pair) >= 4]
    assert sorted(map(sorted, met)) == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert sum(first < 4 for first, _ in met) == 2
    assert judge.calls == 1


def test_the_mean_rises_with_the_policy_only_where_there_are_references():
    better = judge_groups(BrightnessJudge(), [with_references([30, 10, 20], [9, 9, 9])])[0]
    worse = judge_groups(BrightnessJudge(), [with_references([30, 10, 20], [50, 50, 50])])[0]
    assert (better.mean, worse.mean) == (1.0, 0.0)
    assert judge_groups(BrightnessJudge(), [group([30, 10, 20])])[0].mean == pytest.approx(0.5)


def test_a_failed_comparison_with_the_reference_is_left_out_of_the_mean():
    scores = judge_groups(BrightnessJudge(), [with_references([30, 10, 20], [99, 9, 21])])[0]
    np.testing.assert_array_equal(scores.win_rate_vs_reference, [np.nan, 1, 0])
    assert scores.mean == 0.5
    assert not np.isnan(scores.rewards).any()


def test_references_with_several_rounds_and_both_orders_meet_once_in_each_order():
    judge = BrightnessJudge()
    settings = Tournament("swiss(2)", both_orders=True)
    scores = judge_groups(judge, [with_references(range(8), range(1, 9))], tournament=settings)[0]
    assert len(scores.pairs) == 2 * (2 * 4 + 8)
    assert scores.mean == 0.0


def test_references_must_match_the_samples():
    with pytest.raises(ConfigError, match=r"expected references of shape \(2, 1, 1, 3\), got \(3, 1, 1, 3\)"):
        with_references([1, 2], [1, 2, 3])


def test_too_many_failures_stop_with_counts_and_an_example():
    judge, groups = BrightnessJudge(), [group([99, 99, 99, 99, 99, 1, 2])]
    with pytest.raises(JudgeFailureShareError) as caught:  # only the pair of 1 and 2 is judged
        judge_groups(judge, groups)
    message = str(caught.value)
    assert "20 of 21 judgments failed" in message
    assert "more than the 50% allowed by max_failure_share" in message
    assert "20 invalid. Example of invalid: winner: Field required." in message
    assert isinstance(caught.value, RewardError)
    lenient = judge_groups(judge, groups, tournament=Tournament(max_failure_share=20 / 21))[0]
    assert lenient.failures == {"invalid": 20}


def test_few_pairs_are_no_share():
    assert FEWEST_FOR_SHARE == 16
    scores = judge_groups(BrightnessJudge(), [group([99] * 6)])[0]  # 15 pairs
    assert scores.failures == {"invalid": 15}


# Two groups of three, worked by hand. In the first, 0 beats 1 (A and C; B goes to 1), the pair of 1 and 2 fails, and 0
# beats 2 (B and C; A goes to 2). In the second, 0 beats 1 and 2, and 1 beats 2, in everything.
HAND_PAIRS = np.array([[0, 1], [1, 2], [2, 0]])
HAND_OUTCOMES = ([verdict(1, 1, 2, 1), FAILED, verdict(2, 1, 2, 2)], [verdict(1), verdict(1), verdict(2)])


def hand_scores(settings):
    return [tournament_scores(HAND_PAIRS, outcomes, 3, tournament=settings) for outcomes in HAND_OUTCOMES]


def test_the_authors_code_by_hand():
    first, second = hand_scores(Tournament(variant="authors_code"))
    # overall, the failure being half a win: (1 + 1) / 2, (0 + 1/2) / 2, (1/2 + 0) / 2
    np.testing.assert_allclose(first.terms["overall"], [1.0, 0.25, 0.25])
    # categories with weights 1, 0.7, 0.7, without the failure: 0 has 1/2, 1/2, 1; 1 has 0, 1, 0; 2 has 1, 0, 0
    # (0.5 + 0.35 + 0.7) / 2.4 = 0.6458, 0.7 / 2.4 = 0.2917, 1 / 2.4 = 0.4167, all rounded to three decimals
    np.testing.assert_allclose(first.terms["dim"], [0.646, 0.292, 0.417], rtol=1e-6)
    np.testing.assert_allclose(first.rewards, [0.7522, 0.2794, 0.3669], rtol=1e-5)
    np.testing.assert_allclose(second.terms["dim"], [1.0, 0.5, 0.0])


def test_the_advantage_of_the_authors_code_by_hand():
    scores = hand_scores(Tournament(variant="authors_code"))
    terms = {name: [group.terms[name] for group in scores] for name in ("dim", "overall")}
    found = blended_advantages(terms, scores[0].weights, ddof=1, eps=1e-8, batch_norm=True)
    # group 1: overall has mean 0.5 and sample std sqrt(0.1875) = 0.43301: z = 1.15470, -0.57735, -0.57735
    #          dim has mean 0.45167 and sample std 0.17953: z = 1.08247, -0.88937, -0.19310
    #          0.7 dim + 0.3 overall = 1.10414, -0.79576, -0.30838
    # group 2: mean 0.5, sample std 0.5 in both: 1, 0, -1
    # over the batch: mean 0, sample std sqrt(3.94745 / 5) = 0.88853
    np.testing.assert_allclose(found, [[1.24265, -0.89560, -0.34706], [1.12545, 0.0, -1.12545]], atol=2e-5)


def test_the_paper_by_hand_on_the_same_verdicts():
    first, _ = hand_scores(Tournament(min_comparisons=1))
    np.testing.assert_allclose(first.terms["overall"], [1.0, 0.0, 0.0])
    np.testing.assert_allclose(first.terms["dim"], [2 / 3, 1 / 3, 1 / 3], rtol=1e-6)
    found = blended_advantages({name: [first.terms[name]] for name in first.weights}, first.weights, eps=0.0)
    # both terms are one above two equals: z = sqrt(2), -sqrt(1/2), -sqrt(1/2)
    np.testing.assert_allclose(found, [[2**0.5, -(0.5**0.5), -(0.5**0.5)]], rtol=1e-6)


def test_without_any_reply_the_authors_code_goes_by_the_ties():
    scores = tournament_scores(HAND_PAIRS, [FAILED] * 3, 3, tournament=Tournament(variant="authors_code"))
    np.testing.assert_array_equal(scores.rewards, [0.5] * 3)
    assert np.isnan(scores.terms["dim"]).all()


def test_category_weights_can_be_set():
    settings = Tournament(category_weights=(1, 0, 0))
    scores = tournament_scores(all_pairs(2), [verdict(2, 1, 2, 2)], 2, tournament=settings)
    np.testing.assert_array_equal(scores.terms["dim"], [1.0, 0.0])


def test_tournaments_from_a_recipe():
    written = {"schedule": {"name": "regular", "k": 4}, "aggregation": "margin", "both_orders": True, "alpha": 0.5}
    assert make_tournament(written) == Tournament(**written)
    assert make_tournament(None) == Tournament()
    with pytest.raises(UnknownNameError, match="setting of the tournament 'schedul'. Did you mean 'schedule'"):
        make_tournament({"schedul": "all"})


def test_labels_say_what_differs():
    assert Tournament().label == "all"
    assert Tournament("regular(6)", both_orders=True).label == "regular(6), both orders"
    settings = Tournament({"name": "swiss", "rounds": 3}, aggregation={"name": "bradley_terry", "order": True})
    assert settings.label == "swiss(rounds=3), bradley_terry(order=True)"
    assert Tournament(variant="authors_code").label == "all, authors_code"


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 1.2},
        {"alpha": float("nan")},
        {"min_comparisons": 0},
        {"max_failure_share": 1.5},
        {"category_weights": (1, 1)},
        {"category_weights": (0, 0, 0)},
        {"category_weights": (1, -1, 1)},
        {"category_weights": (1, float("nan"), 1)},
    ],
)
def test_settings_are_checked_when_built(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Tournament(**settings)


@pytest.mark.parametrize(
    ("settings", "nearest"),
    [({"schedule": "al"}, "all"), ({"aggregation": "wins_rate"}, "win_rate"), ({"variant": "authors"}, "authors_code")],
)
def test_names_are_checked_when_built(settings, nearest):
    with pytest.raises(UnknownNameError, match=f"Did you mean '{nearest}'"):
        Tournament(**settings)


def test_the_settings_of_a_tournament_are_its_fields():
    assert get_type_hints(TournamentSettings) == get_type_hints(Tournament)


class FirstWins:
    """A judge for which the first sample wins overall and the second every category."""

    def assess(self, pairs):
        return [verdict(1, 2, 2, 2)] * len(pairs)


def test_alpha_of_a_category_holds_for_its_prompts_alone():
    samples = np.zeros((2, 4, 4, 3), np.uint8)
    prompts = [Prompt("a", {"category": "counting"}), Prompt("b", {"category": "size"}), Prompt("c")]
    settings = Tournament(alpha=0.7, alpha_by_category={"counting": 0.1}, min_comparisons=1)
    scores = judge_groups(FirstWins(), [SampleGroup(prompt, samples) for prompt in prompts], tournament=settings)
    assert [each.weights["dim"] for each in scores] == [0.1, 0.7, 0.7]
    winner = [int(each.pairs[0, 0]) for each in scores]
    advantages = advantages_of(scores, eps=0.0)
    assert np.allclose([row[first] for row, first in zip(advantages, winner, strict=True)], [0.8, -0.4, -0.4])
    with pytest.raises(ConfigError, match="'counting' must be between 0"):
        Tournament(alpha_by_category={"counting": 1.5})
