from __future__ import annotations

import sys

import numpy as np
import pytest

from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.judge import JudgeFailure, Tournament, all_pairs, judge_groups
from flexgym.judge.calibration import FULL, TOURNAMENTS, calibrate, draw_calibration, full_advantages
from flexgym.judge.noise import NoisyJudge
from tests.judge.simulated import WorthJudge, group, simulated_groups, verdict


class TableJudge:
    """Names the first of a pair where the table says so; pairs that the table leaves out fail."""

    def __init__(self, table, make=verdict):
        self.table, self.make = table, make

    def assess(self, pairs):
        return [self._one(self.table.get((pair.first, pair.second))) for pair in pairs]

    def _one(self, first_wins):
        return JudgeFailure("refused", "no idea") if first_wins is None else self.make(1 if first_wins else 2)


def judged(table, size=3, make=verdict):
    return calibrate(TableJudge(table, make), [group(range(size))], tournaments=[FULL])


def consistent(beats):
    """The table of a judge that does not mind the order."""
    return dict.fromkeys(beats, True) | {pair[::-1]: False for pair in beats}


def test_a_judge_with_one_scale():
    report = judged(consistent([(0, 1), (0, 2), (1, 2)]))
    assert (report.groups, report.comparisons, report.agreement["failure_share"]) == (1, 6, 0.0)
    assert (report.first_position_rate, report.flip_rate, report.cyclic_triads) == (0.5, 0.0, 0.0)


def test_a_judge_that_goes_in_circles():
    report = judged(consistent([(0, 1), (1, 2), (2, 0)]))
    assert (report.flip_rate, report.cyclic_triads) == (0.0, 1.0)


def test_triads_by_hand():
    # 0 > 1 > 2 > 0 is a circle; all three beat 3, which makes three triads without one
    report = judged(consistent([(0, 1), (1, 2), (2, 0), (0, 3), (1, 3), (2, 3)]), size=4)
    assert report.cyclic_triads == pytest.approx(0.25)


def test_a_judge_that_always_names_the_first():
    report = judged(dict.fromkeys([(i, j) for i in range(3) for j in range(3) if i != j], True))
    assert (report.first_position_rate, report.flip_rate) == (1.0, 1.0)
    assert np.isnan(report.cyclic_triads)


def test_failures_leave_the_figures_and_are_counted():
    table = consistent([(0, 1), (0, 2), (1, 2)])
    table[2, 1] = True  # flipped
    del table[1, 0]
    report = judged(table)
    assert report.agreement["failure_share/refused"] == pytest.approx(1 / 6)
    assert report.first_position_rate == pytest.approx(4 / 5)
    assert report.flip_rate == pytest.approx(1 / 2)  # 0-2 holds, 1-2 is flipped, 0-1 is not known


def test_agreement_by_hand():
    # A goes to the first with 8 points; B to the second in spite of 9 points; C to the second; the winner is the first
    report = judged(consistent([(0, 1), (0, 2), (1, 2)]), make=lambda winner: verdict(1, 1, 2, 2, scores=(8, 9, 5)))
    assert report.agreement["consistent_categories"] == pytest.approx(2 / 3)
    assert report.agreement["majority_agrees"] == 0.0


def test_every_tournament_is_faithful_to_a_perfect_judge():
    groups, worths = simulated_groups(6, 8, seed=1)
    report = calibrate(WorthJudge(), groups, truth=worths)
    rows = {row.tournament: row for row in report.rows}
    assert list(rows) == [settings.label for settings in TOURNAMENTS]
    assert rows["all, both orders"].cosine == rows["all"].cosine == pytest.approx(1.0)
    assert rows["all"].kendall_tau == pytest.approx(1.0)
    assert rows["all, both orders"].calls == 56
    assert rows["all"].calls == rows["all_unbalanced"].calls == 28
    assert rows["regular(4)"].calls == rows["regular(2), both orders"].calls == 16
    assert rows["anchor(1), bradley_terry"].calls == 7
    assert all(0.5 < row.true_cosine < 1.0 + 1e-6 and row.unscored == 0.0 for row in report.rows)


def test_replaying_the_record_is_the_same_as_asking():
    groups, worths = simulated_groups(3, 9, seed=2)
    settings = Tournament("swiss(3)", aggregation="bradley_terry")
    report = calibrate(WorthJudge(), groups, tournaments=[settings], truth=worths)
    played = judge_groups(WorthJudge(), groups, tournament=settings)
    expected = np.mean([len(scores.pairs) for scores in played])
    assert report.rows[0].calls == expected


@pytest.mark.slow
def test_balanced_sides_and_more_calls_pay_under_noise():
    groups, worths = simulated_groups(30, 16, seed=3)
    judge = NoisyJudge(WorthJudge(), accuracy=0.7, first_position_rate=0.69)
    chosen = [FULL, Tournament(), Tournament("all_unbalanced"), Tournament("regular(6)"), Tournament("regular(2)")]
    report = calibrate(judge, groups, tournaments=chosen, truth=worths)
    full, balanced, unbalanced, six, two = (row.true_cosine for row in report.rows)
    assert full > balanced > six > two + 0.1
    assert balanced > unbalanced + 0.03
    assert report.first_position_rate == pytest.approx(0.66, abs=0.04)  # 0.69 of equals, less where one is better
    assert report.flip_rate > 0.2
    assert 0.0 < report.cyclic_triads < 0.25
    assert report.rows[0].cosine == pytest.approx(1.0)
    assert report.cheapest(within=0.5).tournament == "regular(2)"
    assert report.cheapest(within=0.0).tournament == "all"


def test_the_truth_of_an_imperfect_judge_is_a_better_one():
    groups, worths = simulated_groups(4, 8, seed=4)
    for found, worth in zip(full_advantages(WorthJudge(), groups), worths, strict=True):
        np.testing.assert_array_equal(np.argsort(found), np.argsort(worth))


def test_without_truth_the_measure_is_all_pairs_in_both_orders():
    groups, _ = simulated_groups(4, 8, seed=5)
    report = calibrate(NoisyJudge(WorthJudge()), groups, tournaments=[FULL, Tournament(), Tournament("regular(2)")])
    assert all(np.isnan(row.true_cosine) for row in report.rows)
    assert [row.value for row in report.rows] == [row.cosine for row in report.rows]
    assert report.rows[0].value > report.rows[1].value > report.rows[2].value
    with pytest.raises(UnknownNameError, match="tournament of the report 'swiss'"):
        report.cheapest(of="swiss")


def test_rows_are_plain_data():
    groups, _ = simulated_groups(2, 6, seed=6)
    report = calibrate(WorthJudge(), groups, tournaments=[Tournament()])
    assert report.to_rows()[0]["tournament"] == "all"
    assert report.to_rows()[0]["calls"] == 15.0
    assert report.to_figures()["groups"] == 2
    assert report.to_figures()["first_position_rate"] == report.first_position_rate


def test_refusals():
    with pytest.raises(ConfigError, match="at least one group, got none"):
        calibrate(WorthJudge(), [])
    groups, worths = simulated_groups(2, 6, seed=7)
    with pytest.raises(
        ConfigError, match=r"one value for each sample: expected lengths \[6, 6\], got shapes \[\(6,\)\]"
    ):
        calibrate(WorthJudge(), groups, truth=worths[:1])


def test_the_drawing_is_a_picture(tmp_path):
    groups, worths = simulated_groups(2, 6, seed=8)
    report = calibrate(WorthJudge(), groups, tournaments=[Tournament(), Tournament("anchor(1)")], truth=worths)
    draw_calibration(report, tmp_path / "fidelity.png")
    assert (tmp_path / "fidelity.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_error_says_what_to_install(tmp_path, monkeypatch):
    groups, _ = simulated_groups(1, 4, seed=9)
    report = calibrate(WorthJudge(), groups, tournaments=[Tournament()])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match="pip install matplotlib"):
        draw_calibration(report, tmp_path / "fidelity.png")


def test_the_record_holds_every_pair_in_both_orders():
    groups, _ = simulated_groups(1, 5, seed=10)
    scores = judge_groups(WorthJudge(), groups, tournament=FULL)[0]
    both = {*map(tuple, all_pairs(5).tolist()), *map(tuple, all_pairs(5)[:, ::-1].tolist())}
    assert set(map(tuple, scores.pairs.tolist())) == both
