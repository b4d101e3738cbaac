"""Names from rewards, judges and servers never replace a metric of FlexGym."""

from __future__ import annotations

import numpy as np
import pytest

from flexgym.core.errors import ConfigError
from flexgym.judge.agreement import agreement_summary
from flexgym.judge.protocol import JudgeFailure
from flexgym.rllib.algorithm import reward_metrics, scorer_metrics
from flexgym.rllib.runner import Scored
from flexgym.runs.known_metrics import OWN_NAMES, merged, outside_metrics, outside_name
from flexgym.runs.verification import Verification
from flexgym.types import GroupScores

ADVANTAGES = np.array([[1, -1]], np.float32)


def scores(*names, **fields):
    nine_hundred = np.full(2, 900, np.float32)
    return GroupScores(np.array([1, 3], np.float32), terms=dict.fromkeys(names, nine_hundred), **fields)


def scored(usage, monitors=None):
    return Scored((), (), monitors or {}, rollout_seconds=0.0, reward_seconds=0.0, usage=usage)


def test_no_term_replaces_a_metric():
    own = reward_metrics([scores(win_rate_vs_reference=np.ones(2, np.float32))], ADVANTAGES)
    names = [name.removeprefix("reward/") for name in own]
    row = reward_metrics([scores(*names, win_rate_vs_reference=np.ones(2, np.float32))], ADVANTAGES)
    assert row["reward/mean"] == 2.0
    assert {name: row[name] for name in own} == own
    assert all(row[f"reward/own/{name}"] == 900 for name in names)


def test_a_term_has_the_same_name_whether_or_not_ours_is_in_the_row():
    row = reward_metrics([scores("win_rate_vs_reference")], ADVANTAGES)
    assert row["reward/own/win_rate_vs_reference"] == 900
    assert "reward/win_rate_vs_reference" not in row


def test_the_names_that_are_reserved_are_those_that_are_written():
    outcomes = (JudgeFailure("refused", ""),)
    judged = scores(win_rate_vs_reference=np.ones(2, np.float32), assessments=outcomes)
    verified = Verification(
        ["a"], np.zeros((1, 2, 2, 3), np.uint8), np.ones(1, np.float32), diversity=0.5, audited=np.ones(1, bool)
    )
    written = {*reward_metrics([judged], ADVANTAGES), *verified.metrics}
    assert written == {f"{prefix}/{name}" for prefix, names in OWN_NAMES.items() for name in names}


@pytest.mark.parametrize("name", sorted(agreement_summary(())))
def test_no_usage_of_a_judge_replaces_its_agreement(name):
    assert scorer_metrics([scored({name: 900.0})]) == {f"judge/own/{name}": 900.0}


def test_usage_that_one_learner_lacks_counts_as_none_there():
    row = scorer_metrics([scored({"requests": 2.0}), scored({"requests": 4.0, "failures/refused": 1.0})])
    assert row == {"judge/requests": 3.0, "judge/failures/refused": 0.5}


def test_no_evaluation_replaces_a_result_of_the_verifier():
    means = dict.fromkeys(("accuracy", "verifier_score", "diversity", "audit", "accuracy/size", "clip"), 900.0)
    verified = Verification(
        ["a"], np.zeros((1, 2, 2, 3), np.uint8), np.ones(1, np.float32), means=means, diversity=0.5
    ).metrics
    values = {name: metric.value for name, metric in verified.items()}
    assert values["eval/accuracy"] == values["eval/verifier_score"] == 1.0
    assert values["eval/diversity"] == 0.5
    assert [values[f"eval/{name}"] for name in ("own/audit", "own/accuracy/size", "own/verifier_score", "clip")] == [
        900.0
    ] * 4


def test_ordinary_names_stay_and_different_names_stay_different():
    names = ["alignment", "rubric/part", "means", "Mean", "mean/part", "own", "own/mean", "mean", "", "a b", "größe"]
    found = [outside_name("reward", name) for name in names]
    assert found[:5] == names[:5]
    assert len(set(found)) == len(names)
    assert not set(found) & OWN_NAMES["reward"]


@pytest.mark.parametrize("name", ["mean ", " mean", "mean\n", "\tmean", "mean\r"])
def test_names_that_look_like_ours_are_ours(name):
    assert outside_name("reward", name) == "own/mean"


def test_names_cannot_control_a_terminal_or_fill_a_file():
    hostile = outside_metrics("reward", {"\x1b]52;c;aGk=\x07": 1, "mean\u200b": 2, "x" * 10**6: 3})
    assert all(name.isprintable() and len(name) < 300 for name in hostile)
    assert "reward/mean" not in hostile


def test_two_parts_of_a_row_do_not_share_a_name():
    assert merged({"a": 1}, {"b": 2}) == {"a": 1, "b": 2}
    with pytest.raises(ConfigError, match="'reward/mean' is written by two parts"):
        merged({"reward/mean": 1.0}, {"reward/mean": 900.0})
