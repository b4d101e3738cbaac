"""What an evaluation reports and records."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from flexgym.rllib.evaluation.evaluate import Recorded
from flexgym.rllib.evaluation.report import remarks, table
from flexgym.rllib.evaluation.result import Evaluation, append_row, draw_disagreements, read_rows
from flexgym.runs.verification import Verification
from flexgym.shapes.splits import draw_prompts

PROMPTS = draw_prompts("image", "test", 28, seed=3)


def verified(satisfied, audited=None, shape=(32, 32, 3)):
    found = np.asarray(satisfied, bool)
    samples = np.random.default_rng(0).integers(0, 256, (len(found), *shape), np.uint8)
    return Verification(
        PROMPTS[: len(found)],
        samples,
        scores=found.astype(np.float32),
        diversity=0.25,
        audited=found if audited is None else np.asarray(audited, bool),
    )


def evaluation(before, after, **changes):
    given = {"split": "test", "seed": 3, "iteration": 60, "date": "2026-01-01T00:00:00+00:00"}
    return Evaluation(**{**given, **changes}, before=before, after=after)


HALF, THREE_QUARTERS = np.arange(28) % 14 < 7, np.arange(28) < 21


def test_a_row_holds_the_figures_before_and_after():
    row = evaluation(verified(HALF), verified(THREE_QUARTERS, audited=np.arange(28) < 20)).row()
    assert [row[name] for name in ("split", "seed", "num_prompts", "iteration")] == ["test", 3, 28, 60]
    assert (row["before"]["accuracy"], row["after"]["accuracy"]) == (0.5, 0.75)
    assert row["before"]["audit"] == 0.5
    assert row["after"]["audit"] == pytest.approx(20 / 28)
    assert row["gain"]["accuracy"] == pytest.approx(0.25)
    assert row["gain"]["low"] < 0.25 < row["gain"]["high"]
    assert row["gain"]["audit"] == pytest.approx(20 / 28 - 0.5)
    assert set(row["after"]["by_category"].values()) == {0.75}
    assert row["agreement"] == pytest.approx(55 / 56)
    assert json.loads(json.dumps(row, allow_nan=False)) == row


def test_the_interval_of_a_gain_is_that_of_pairs():
    """A policy that differs on one sample has a small gain, however uncertain both accuracies are."""
    after = HALF.copy()
    after[7] = True
    found = evaluation(verified(HALF), verified(after))
    assert found.gain.high - found.gain.low < 0.15
    assert found.after.accuracy.high - found.after.accuracy.low > 0.2


def test_rows_are_added_and_earlier_ones_of_the_split_returned(tmp_path):
    assert read_rows(tmp_path) == []
    first, second = evaluation(verified(HALF), verified(HALF)), evaluation(verified(HALF), verified(THREE_QUARTERS))
    assert append_row(tmp_path, evaluation(verified(HALF), verified(HALF), split="validation")) == []
    assert append_row(tmp_path, first) == []
    assert append_row(tmp_path, second) == [first.row()]
    assert [row["split"] for row in read_rows(tmp_path)] == ["validation", "test", "test"]
    assert "evaluated on test before (1x" in "\n".join(remarks(Recorded(second, 1, drawn=None)))
    assert len(list(remarks(Recorded(second, 0, drawn=None)))) == 1


def test_the_table_has_every_category_and_the_audit():
    found = table(evaluation(verified(HALF), verified(THREE_QUARTERS)))
    cells = [list(column.cells) for column in found.columns]
    assert cells[0] == [
        *("accuracy", "audit", "size", "counting", "binding", "three_things", "position", "between", "absence"),
        "diversity",
    ]
    assert cells[3][1] == "0.250"
    assert cells[2][0].startswith("0.750 (0.")


def test_disagreements_are_drawn_with_both_verdicts(tmp_path):
    assert draw_disagreements(tmp_path, evaluation(verified(HALF), verified(HALF))) is None
    some = evaluation(verified(HALF), verified(HALF, audited=~HALF))
    path = draw_disagreements(tmp_path, some)
    assert path == tmp_path / "evaluations" / "test_28_seed3_iteration_000060.png"
    assert min(Image.open(path).size) > 300
    clips = evaluation(verified(HALF, shape=(9, 32, 32, 3)), verified(HALF, ~HALF, shape=(9, 32, 32, 3)))
    assert Image.open(draw_disagreements(tmp_path, clips)).n_frames == 9
