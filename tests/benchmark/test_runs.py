"""Runs in processes of their own: a small program that keeps to the command line of an agent, and agents themselves."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time

import psutil
import pytest

from flexgym.benchmark.folder import BenchmarkFolder
from flexgym.benchmark.plan import Plan, PlannedRun, planned_runs
from flexgym.benchmark.results import results_of
from flexgym.benchmark.runs import train_all
from flexgym.core.errors import ConfigError
from flexgym.core.yaml_files import dump_yaml
from flexgym.runs.checkpoints import latest_checkpoint
from flexgym.runs.metrics import read_metrics
from tests.benchmark.small import small_plan

PROGRAM = """
import os, sys
from flexgym.runs.comparison import VERIFIER
from flexgym.runs.folder import RunFolder
from flexgym.config.recipe import apply_overrides, load_recipe

words = sys.argv[1:]
recipe = apply_overrides(load_recipe(words[words.index("--config") + 1]), [word for word in words if "=" in word])
run = recipe["run"]
if run["name"].startswith(os.environ.get("BREAKS", "nothing")):
    sys.exit("error: it broke")
resume = words[words.index("--resume") + 1] if "--resume" in words else None
folder = RunFolder.resume(resume) if resume else RunFolder.create(run["root"], run["name"])
seconds = 0.0
with folder:
    if not resume:
        folder.metrics.append({"iteration": 0, VERIFIER: 0.4})
    for iteration in range(folder.start_iteration + 1, run["iterations"] + 1):
        accuracy = 0.5 + recipe["training"]["lr"]
        folder.metrics.append({"iteration": iteration, VERIFIER: accuracy, "time/iteration_s": 1.2})
        folder.checkpoints.publish(iteration, lambda path: (path / "state").write_text(os.environ["OMP_NUM_THREADS"]))
        seconds += 1.2
        if seconds >= 60 * run["minutes"] - 1e-3:
            break
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return [sys.executable, str(path)]


def folder_of(root, **tuning):
    plan = small_plan(tuning=tuning).model_dump(mode="json")
    plan["tasks"]["image"]["num_seeds"] = 1
    return BenchmarkFolder(root, Plan.parse(plan))


def steps_of(folder, run):
    return [(step.kind, step.budget, step.status, step.iteration, step.end) for step in folder.steps(run)]


def test_runs_train_to_both_budgets_with_the_tuned_values_and_once(tmp_path, program):
    folder = folder_of(tmp_path / "all", trials=2)
    runs = planned_runs(folder.plan, ["matching"])
    lines = []
    assert train_all(folder, runs, program, report=lines.append)
    reported = PlannedRun("image", "matching", 0)
    # Three seconds of training: a sample budget of four is one iteration of 1.2 seconds, and two more fill the time.
    assert steps_of(folder, reported) == [
        ("train", "samples", "finished", 1, "budget"),
        ("train", "wall", "finished", 3, "budget"),
    ]
    assert folder.recipe(reported)["training"]["lr"] == 3e-4, "the better of two"
    assert [result.samples for result in results_of(folder, reported)] == [4, 12]
    assert all(step.wall_s > 0 and step.peak_bytes > 2**20 for step in folder.steps(reported))
    [state] = (folder.root / reported.name / "checkpoints").glob("iteration_*3/state")
    assert state.read_text() == "1", "one thread on its core"
    lines.clear()
    assert train_all(folder, runs, program, report=lines.append)
    assert lines == [], "nothing is repeated"


def test_a_failed_run_takes_no_other_with_it_and_is_tried_again(tmp_path, program, monkeypatch):
    folder = folder_of(tmp_path / "all", trials=1)
    runs = planned_runs(folder.plan)
    monkeypatch.setenv("BREAKS", "image.nft.tuning0")
    lines = []
    assert not train_all(folder, runs, program, report=lines.append)
    assert "image.nft.tuning0: train, wall: failed: it broke" in lines
    assert "image.nft.seed0: waits, since the tuning of nft is not finished" in lines
    assert all(folder.due(run) is None for run in runs if run.algorithm == "matching")
    monkeypatch.delenv("BREAKS")
    assert train_all(folder, runs, program, report=lines.append)


def test_more_trainings_than_cores_are_refused(tmp_path, program):
    folder = folder_of(tmp_path / "all", trials=1)
    with pytest.raises(ConfigError, match=r"expected at most \d+ cores for 4096 at a time"):
        train_all(folder, planned_runs(folder.plan), program, parallel=4096, report=str)


@pytest.mark.slow
def test_a_killed_benchmark_resumes_its_run_and_skips_what_is_finished(tmp_path):
    plan = small_plan(tuning={"trials": 1}).model_dump(mode="json")
    plan["tasks"]["image"] |= {"num_seeds": 1, "samples": 40, "minutes": 0.4, "tuning_minutes": 0.02}
    plan["tasks"]["image"]["algorithms"] = ["matching"]
    file, root = tmp_path / "plan.yaml", tmp_path / "all"
    file.write_text(dump_yaml(plan))
    command = [sys.executable, "-m", "agents.benchmark", "--plan", str(file), "--out", str(root)]
    folder, tuned = root / "image.matching.seed0", root / "image.matching.tuning0" / "metrics.jsonl"
    with open(tmp_path / "log", "w") as log:
        process = psutil.Popen(command, stdout=log, stderr=log)
        while not (folder.exists() and latest_checkpoint(folder)):
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.05)
        for each in (*process.children(recursive=True), process):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait()
    saved = int(latest_checkpoint(folder).name.removeprefix("iteration_"))
    before, tuned_before = read_metrics(folder / "metrics.jsonl")[: saved + 1], tuned.read_bytes()
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 of 2 runs finished." in ended.stdout
    assert "tuning0" not in ended.stdout, "what is finished is skipped"
    assert tuned.read_bytes() == tuned_before
    rows = read_metrics(folder / "metrics.jsonl")
    assert rows[: saved + 1] == before, "it resumed there"
    assert [row["iteration"] for row in rows] == list(range(len(rows)))
    samples, wall = results_of(BenchmarkFolder(root, Plan.parse(plan)), PlannedRun("image", "matching", 0))
    assert samples.status in ("finished", "not reached"), "a machine under load may be too slow"
    assert (wall.status, wall.split) == ("finished", "validation")
    assert 0 <= wall.accuracy <= 1
    assert wall.peak_gib > 0.1
    assert (root / "index.html").stat().st_size > 10_000
