from __future__ import annotations

import pytest

from flexgym.benchmark.folder import BenchmarkFolder, Step
from flexgym.benchmark.merge import merge
from flexgym.benchmark.plan import PlannedRun
from flexgym.benchmark.results import results_of
from flexgym.core.errors import CheckpointError, ConfigError
from tests.benchmark.small import record, small_plan

TUNING = PlannedRun("image", "matching", 100, trial=0)
FIRST, SECOND = (PlannedRun("image", "matching", seed) for seed in (0, 1))


@pytest.fixture
def here(tmp_path):
    return BenchmarkFolder(tmp_path / "here", small_plan())


@pytest.fixture
def there(tmp_path):
    folder = BenchmarkFolder(tmp_path / "there", small_plan().with_seeds(3))
    record(folder, TUNING, [0.4, 0.5])
    record(folder, FIRST, [0.4, 0.5, 0.7])
    (folder.root / FIRST.name / "checkpoints").mkdir()
    (folder.root / FIRST.name / "checkpoints" / "weights").write_text("large")
    assert folder.add(SECOND)
    folder.add_step(SECOND, Step("train", "samples", "stopped", iteration=1))
    return folder


def test_finished_runs_are_copied_with_their_records_and_without_checkpoints(here, there):
    assert merge(here, there.root) == [TUNING.name, FIRST.name]
    assert results_of(here, FIRST) == results_of(there, FIRST)
    assert sorted(path.name for path in (here.root / FIRST.name).iterdir()) == ["metrics.jsonl"]
    assert here.due(SECOND) == ("train", "samples"), "a run that was stopped there begins here"
    assert here.add(SECOND), "the tuning of the other machine holds"
    assert merge(here, there.root) == [], "nothing twice"
    assert here.plan.tasks["image"].num_seeds == 3, "seeds of the other machine are planned here, too"
    assert BenchmarkFolder(here.root, small_plan()).plan.tasks["image"].num_seeds == 3


def test_what_is_here_is_kept(here, there):
    record(here, TUNING, [0.4, 0.6])
    assert merge(here, there.root) == [FIRST.name]
    assert here.tuned_accuracy(TUNING) == 0.6


def test_results_of_another_plan_are_refused(here, tmp_path):
    other = BenchmarkFolder(tmp_path / "other", small_plan(budget={"cores": 2}))
    record(other, TUNING, [0.4, 0.5])
    with pytest.raises(ConfigError, match=r"with budget\.cores=2, got the plan .* with 1: .* cannot be put together"):
        merge(here, other.root)
    with pytest.raises(ConfigError, match=r"expected the folder of a benchmark"):
        merge(here, tmp_path)


def test_runs_with_other_tuned_values_are_refused(here, there):
    plan = small_plan(tuning={"trials": 2})
    here, there = (BenchmarkFolder(folder.root.with_name(f"{folder.root.name}2"), plan) for folder in (here, there))
    for folder, (first, second) in ((here, (0.5, 0.6)), (there, (0.6, 0.5))):
        for trial, accuracy in enumerate((first, second)):
            record(folder, PlannedRun("image", "matching", 100, trial=trial), [0.4, accuracy])
        record(folder, FIRST, [0.4, 0.5, 0.7])
    with pytest.raises(ConfigError, match=r"image\.matching\.seed0 was trained there and here, here with training\.lr"):
        merge(here, there.root)


def test_links_are_not_followed(here, there, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text('{"iteration": 0}\n')
    metrics = there.root / FIRST.name / "metrics.jsonl"
    metrics.unlink()
    metrics.symlink_to(secret)
    with pytest.raises(CheckpointError, match="not followed"):
        merge(here, there.root)
    assert not (here.root / FIRST.name).exists()


def test_figures_that_are_no_numbers_are_refused(here, there):
    metrics = there.root / FIRST.name / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace("10.0", '"<b>"'))
    with pytest.raises(ConfigError, match=r"image\.matching\.seed0: expected a number as time/iteration_s, got '<b>'"):
        merge(here, there.root)
    assert not (here.root / FIRST.name).exists()
