"""Runs in processes of their own, by a small program that keeps to the command line of an agent."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

import pytest

from flexgym.core.errors import ConfigError
from flexgym.runs.series import Outcome, Series

PROGRAM = """
import sys
from pathlib import Path
from flexgym.runs.folder import RunFolder
from flexgym.config.recipe import load_recipe

recipe = load_recipe(sys.argv[sys.argv.index("--config") + 1])
run = recipe["run"]
resume = sys.argv[sys.argv.index("--resume") + 1] if "--resume" in sys.argv else None
folder = RunFolder.resume(resume) if resume else RunFolder.create(run["root"], run["name"])
with folder:
    for iteration in range(folder.start_iteration + 1, run["iterations"] + 1):
        if iteration == recipe["reward"].get("fails_at"):
            print("error: the reward broke\\n  at iteration", iteration)
            sys.exit(2)
        folder.metrics.append({"iteration": iteration})
        folder.checkpoints.publish(iteration, lambda path: (path / "state").write_text("x"))
"""


@pytest.fixture
def series(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    return Series(tmp_path / "all", [sys.executable, str(program)])


def recipe(iterations=2, **reward):
    return {"run": {"iterations": iterations}, "reward": reward, "training": {"lr": 1.0}}


def test_a_failed_run_does_not_take_the_others_and_finished_ones_are_not_repeated(series):
    series.add("good-seed0", recipe())
    series.add("bad-seed0", recipe(fails_at=1))
    series.add("late-seed0", recipe(fails_at=2))
    lines = []
    series.run(["bad-seed0", "late-seed0", "good-seed0"], parallel=2, report=lines.append)
    assert series.outcome("good-seed0") == Outcome("finished")
    assert series.outcome("bad-seed0") == Outcome("failed", "the reward broke at iteration 1")
    assert [row["iteration"] for row in series.rows("late-seed0")] == [1]
    assert series.rows("bad-seed0") == []
    assert "bad-seed0: failed: the reward broke at iteration 1" in lines
    lines.clear()
    series.run(series.names(), report=lines.append)
    assert [line.split(",")[0] for line in lines if "log in" in line] == ["bad-seed0: begins", "late-seed0: resumes"]
    assert series.folder("bad-seed0").name == "bad-seed0-2", "nothing was learned, so it begins anew beside the old one"
    assert series.folder("late-seed0").name == "late-seed0"


def test_a_run_can_go_on_for_longer_and_with_nothing_else_changed(series):
    series.add("good-seed0", recipe())
    series.run(["good-seed0"], report=str)
    series.add("good-seed0", recipe(iterations=4))
    assert series.outcome("good-seed0").status == "waiting"
    lines = []
    series.run(["good-seed0"], report=lines.append)
    assert "resumes" in lines[0]
    assert [row["iteration"] for row in series.rows("good-seed0")] == [1, 2, 3, 4]
    with pytest.raises(ConfigError, match=r"begun with training\.lr=1\.0, got 2\.0"):
        series.add("good-seed0", {**recipe(), "training": {"lr": 2.0}})


def test_before_anything_ran_there_is_nothing_to_tell(series):
    series.add("good-seed1", recipe())
    series.add("good-seed10", recipe())
    assert series.names() == ["good-seed1", "good-seed10"]
    assert series.outcome("good-seed1") == Outcome("waiting")
    assert series.rows("good-seed1") == []
    series.run(["good-seed10"], report=str)
    assert series.folder("good-seed1") is None


def test_a_program_that_dies_is_a_failure_with_its_last_line(tmp_path):
    series = Series(tmp_path / "all", [sys.executable, "-c", "raise KeyError('weights')"])
    series.add("good-seed0", recipe())
    series.run(["good-seed0"], report=str)
    assert series.outcome("good-seed0") == Outcome("failed", "KeyError: 'weights'")


STOPPABLE = """
import sys, time
from pathlib import Path
from flexgym.runs.interrupt import GracefulInterrupt, exit_status
with GracefulInterrupt() as interrupt:
    Path(sys.argv[1]).touch()
    while not interrupt.requested:
        time.sleep(0.01)
sys.exit(exit_status(interrupt.signal))
"""


def test_a_signal_is_passed_on_to_the_runs_at_work(tmp_path):
    ready = tmp_path / "ready"
    series = Series(tmp_path / "all", [sys.executable, "-c", STOPPABLE, str(ready)])
    series.add("first-seed0", recipe())
    series.add("second-seed0", recipe())

    def stop():
        while not ready.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    lines = []
    series.run(series.names(), report=lines.append)
    assert series.outcome("first-seed0") == Outcome("stopped")
    assert series.outcome("second-seed0") == Outcome("waiting")
    assert lines[-1] == "first-seed0: stopped"
