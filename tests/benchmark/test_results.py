from __future__ import annotations

import json

import pyarrow.parquet
import pytest

from flexgym.benchmark.folder import BenchmarkFolder, Step
from flexgym.benchmark.plan import PlannedRun, planned_runs
from flexgym.benchmark.report import list_plan, write_results
from flexgym.benchmark.results import Result, curve_of, first_gain, outcome_of, results_of, write_parquet
from flexgym.benchmark.surprises import surprises
from flexgym.core.errors import ConfigError
from tests.benchmark.small import record, small_plan

TUNING = PlannedRun("image", "matching", 100, trial=0)
REPORTED = PlannedRun("image", "matching", 0)


@pytest.fixture
def folder(tmp_path):
    return BenchmarkFolder(tmp_path / "all", small_plan())


def test_verifications_count_until_there_is_an_evaluation_on_test_prompts(folder):
    record(folder, TUNING, [0.4, 0.5])
    path = record(folder, REPORTED, [0.4, 0.5, 0.7])
    rows = folder.rows(REPORTED)
    assert outcome_of(path, rows, through=1).after.accuracy == 0.5
    assert outcome_of(path, rows, through=2).split == "validation"
    evaluation = {
        "split": "test",
        "seed": 7,
        "num_prompts": 2000,
        "iteration": 2,
        "before": {"accuracy": 0.41, "audit": 0.4, "diversity": 0.2, "by_category": {}},
        "after": {"accuracy": 0.66, "low": 0.64, "high": 0.68, "audit": 0.6, "diversity": None, "by_category": {}},
    }
    others = [{**evaluation, "split": "validation"}, {**evaluation, "after": {"accuracy": 0.1}}]
    (path / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*others, evaluation]))
    found = outcome_of(path, rows, through=2)
    assert (found.split, found.before.accuracy, found.after.audit) == ("test", 0.41, 0.6)
    assert (found.after.accuracy, found.after.low, found.after.diversity) == (0.66, 0.64, None)
    assert outcome_of(path, rows, through=1).split == "validation", "that of another iteration does not count"


def test_seconds_leave_verification_out_and_a_gain_lies_on_a_line(folder):
    record(folder, TUNING, [0.4, 0.5])
    record(folder, REPORTED, [0.4, 0.5, 0.7, 0.9])
    curve = curve_of(folder, REPORTED)
    assert [(point.seconds, point.samples) for point in curve] == [(0, 0), (9, 4), (18, 8), (27, 12)]
    seconds, samples = first_gain(curve, 0.2)
    assert (seconds, samples) == (pytest.approx(13.5), pytest.approx(6))
    assert first_gain(curve, 0.6) is None


def test_a_result_for_each_budget_adds_up_what_was_spent(folder):
    record(folder, TUNING, [0.4, 0.5])
    assert folder.due(REPORTED) == ("train", "samples")
    assert results_of(folder, REPORTED) == []
    record(folder, REPORTED, [0.4, 0.5, 0.7])
    samples, wall = results_of(folder, REPORTED)
    assert (samples.budget, samples.accuracy, samples.samples, samples.seconds) == ("samples", 0.5, 4, 9.0)
    assert (wall.budget, wall.accuracy, wall.samples, wall.seconds) == ("wall", 0.7, 8, 18.0)
    assert (samples.core_hours, wall.core_hours, wall.cpu_hours, wall.peak_gib) == (0.01, 0.02, 0.01, 1.0)
    assert (samples.seconds_to_gain, wall.seconds_to_gain) == (None, pytest.approx(13.5))
    assert json.loads(wall.values) == folder.values(REPORTED)
    assert folder.due(REPORTED) is None


def test_runs_that_end_before_a_budget_say_so(folder):
    record(folder, TUNING, [0.4, 0.5])
    slow, alarmed = (PlannedRun("image", "matching", seed) for seed in (0, 1))
    assert folder.add(slow)
    folder.add_step(slow, Step("train", "samples", "finished", iteration=1, end="time"))
    assert folder.due(slow) is None
    assert [(result.budget, result.status) for result in results_of(folder, slow)] == [
        ("samples", "not reached"),
        ("wall", "finished"),
    ]
    assert folder.add(alarmed)
    folder.add_step(alarmed, Step("train", "samples", "finished", iteration=1, end="early"))
    assert [result.status for result in results_of(folder, alarmed)] == ["early", "early"]


def test_a_failure_is_a_result_until_a_later_try_succeeds(folder):
    record(folder, TUNING, [0.4, 0.5])
    assert folder.add(REPORTED)
    folder.add_step(REPORTED, Step("train", "samples", "failed", problem="no memory", wall_s=3600.0))
    [failed] = results_of(folder, REPORTED)
    assert (failed.status, failed.problem, failed.accuracy, failed.core_hours) == ("failed", "no memory", None, 1.0)
    folder.add_step(REPORTED, Step("train", "samples", "finished", iteration=0, wall_s=3600.0))
    [tried_again] = results_of(folder, REPORTED)
    assert (tried_again.status, tried_again.core_hours) == ("finished", 2.0), "what was spent in vain counts"


def test_tuning_takes_the_point_with_the_highest_accuracy_at_the_end(tmp_path):
    folder = BenchmarkFolder(tmp_path, small_plan(tuning={"trials": 2}))
    points = folder.plan.algorithms["matching"].points(0)
    trials = [PlannedRun("image", "matching", 100, trial=trial) for trial in range(2)]
    record(folder, trials[0], [0.4, 0.9, 0.5])
    assert folder.values(REPORTED) is None
    assert not folder.add(REPORTED), "it waits"
    record(folder, trials[1], [0.4, 0.5, 0.6])
    assert folder.values(REPORTED) == points[1]
    assert folder.add(REPORTED)
    assert folder.recipe(REPORTED)["training"]["lr"] == points[1]["training.lr"]


def test_a_point_that_fails_twice_is_the_worst(tmp_path):
    folder = BenchmarkFolder(tmp_path, small_plan(tuning={"trials": 2}))
    good, bad = (PlannedRun("image", "matching", 100, trial=trial) for trial in range(2))
    record(folder, good, [0.4, 0.0])
    for _ in range(2):
        assert folder.due(bad) == ("train", "wall")
        assert folder.values(REPORTED) is None
        folder.add_step(bad, Step("train", "wall", "failed", problem="diverged"))
    assert folder.due(bad) is None
    assert folder.values(REPORTED) == folder.values(good)


def test_results_are_tables_with_a_column_for_each_field(tmp_path, folder):
    record(folder, TUNING, [0.4, 0.5])
    record(folder, REPORTED, [0.4, 0.5, 0.7])
    lines = write_results(folder)
    assert lines[0] == "2 of 6 runs finished."
    table = pyarrow.parquet.read_table(folder.root / "results.parquet")
    assert table.column_names == list(Result.__dataclass_fields__)
    assert table["accuracy"].to_pylist() == [0.5, 0.5, 0.7]
    assert table["trial"].to_pylist() == [0, None, None]
    assert len(pyarrow.parquet.read_table(folder.root / "curves.parquet")) == 5
    write_parquet(tmp_path / "none.parquet", Result, [])
    assert pyarrow.parquet.read_table(tmp_path / "none.parquet").schema == table.schema


def test_the_list_has_measured_hours_where_there_are_some(folder):
    record(folder, TUNING, [0.4, 0.5])
    *lines, counts, hours = list_plan(folder.root, folder.plan, planned_runs(folder.plan))
    assert lines[0].split() == ["image.matching.tuning0", "finished", "0.01", "core-hours"]
    assert lines[-1].split() == ["image.nft.seed1", "waiting", "0.02", "core-hours"]
    assert counts == f"6 runs, 2 of them for tuning; plan {folder.plan.hash}"
    assert hours == "0.0 core-hours spent, about 0.1 left"


def test_a_folder_belongs_to_one_plan(folder):
    BenchmarkFolder(folder.root, folder.plan.with_seeds(7))
    with pytest.raises(ConfigError, match=r"with tuning\.order=0, got the plan .* with 1"):
        BenchmarkFolder(folder.root, small_plan(tuning={"trials": 1, "order": 1}))


def result(algorithm, seed, accuracy, *, budget="wall", audit=0.5, diversity=0.2):
    before = {"accuracy_before": 0.5, "audit_before": 0.5, "diversity_before": 0.2, "split": "test"}
    after = {"accuracy": accuracy, "audit": audit, "diversity": diversity, "status": "finished", "budget": budget}
    values = dict.fromkeys(Result.__dataclass_fields__)
    return Result(**{**values, **before, **after, "task": "image", "algorithm": algorithm, "seed": seed})


def test_surprises_are_what_the_figures_say():
    assert surprises([result("a", 0, 0.55), result("a", 1, 0.57)]) == []
    assert surprises([result("a", 0, 0.7), result("a", 1, 0.8)]) == [
        "image, a: accuracy changes by +0.250 and the audit by +0.000: the verifier may be overoptimized"
    ]
    assert surprises([result("a", 0, 0.3, audit=0.3), result("a", 1, 0.5, audit=0.5, diversity=0.01)]) == [
        "image, a: accuracy falls by 0.100 below the base",
        "image, a: seeds end between 0.300 and 0.500",
        "image, a: diversity falls from 0.200 to 0.105",
    ]
    at_end = [result(name, 0, 0.5 + index / 100) for index, name in enumerate("abcde")]
    at_samples = [result(name, 0, 0.5 - index / 100, budget="samples") for index, name in enumerate("abcde")]
    assert surprises(at_end + at_samples) == [
        "image, a: place 5 at equal wall time, 1 at equal samples",
        "image, e: place 1 at equal wall time, 5 at equal samples",
    ]
