from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from flexgym.core.errors import CheckpointError, ConfigError
from flexgym.runs import RunFolder, read_metrics
from flexgym.runs.folder import newest_config
from flexgym.runs.recipe import saved_recipe

ROOT = Path(__file__).resolve().parents[2]


def train(run: RunFolder, iterations: range, *, every: int = 2) -> None:
    for iteration in iterations:
        run.metrics.append({"iteration": iteration})
        if iteration % every == 0:
            run.checkpoints.publish(iteration, lambda path: (path / "state").write_text("x") and None)


def test_a_taken_name_gets_a_number(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        with RunFolder.create(tmp_path / "runs", "shapes") as run:
            names.append(run.path.name)
            assert run.samples.is_dir()
            assert run.start_iteration == 0
            assert run.resumed_from is None
    assert names == ["shapes", "shapes-2", "shapes-3"]


@pytest.mark.parametrize("name", ["", ".", "..", "../out", "a/b", "-flag", "a b", "x" * 101])
def test_names_that_leave_the_root_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="run name"):
        RunFolder.create(tmp_path / "runs", name)
    assert not list(tmp_path.iterdir())


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(ConfigError, match="expected a folder for runs"):
        RunFolder.create(tmp_path / "runs", "a")


def test_resume_goes_on_from_the_newest_checkpoint(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, "a") as run:
        run.write_config({"training": {"lr": 1e-5}})
        train(run, range(6))  # checkpoints at 0, 2, 4; row 5 is after the last one
    with RunFolder.resume(tmp_path / "a") as again:
        assert again.start_iteration == 4
        assert again.resumed_from == tmp_path / "a" / "checkpoints" / "iteration_000004"
        assert [row["iteration"] for row in read_metrics(again.path / "metrics.jsonl")] == [0, 1, 2, 3, 4]
        assert again.write_config({"training": {"lr": 2.0}}).name == "config_from_000004.yaml"
        train(again, range(5, 7))
    assert yaml.safe_load((tmp_path / "a" / "config.yaml").read_text()) == {"training": {"lr": 1e-5}}
    assert len(read_metrics(tmp_path / "a" / "metrics.jsonl")) == 7


def test_the_newest_config_is_the_one_of_the_last_start(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, "a") as run:
        run.write_config({"training": {"lr": 1.0}})
        train(run, range(3))
    assert newest_config(run.path).name == "config.yaml"
    for lr, name in ((2.0, "config_from_000002.yaml"), (3.0, "config_from_000002-2.yaml")):
        with RunFolder.resume(tmp_path / "a") as again:
            again.write_config({"training": {"lr": lr}})
        assert newest_config(run.path).name == name
        assert saved_recipe(run.path)["training"]["lr"] == lr
    for wrong in ("../../etc/passwd", "metrics.jsonl", "config_from_000099.yaml", ""):
        (run.path / "config_newest").write_text(wrong)
        with pytest.raises(CheckpointError, match="expected the name of a config in this folder"):
            newest_config(run.path)
    (run.path / "config_newest").unlink()  # as in runs of earlier versions
    assert newest_config(run.path).name == "config.yaml"


def test_resume_from_an_earlier_checkpoint_keeps_the_later_ones_aside(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, "a") as run:
        train(run, range(6))
    with RunFolder.resume(tmp_path / "a" / "checkpoints" / "iteration_000002") as again:
        assert (again.path, again.start_iteration) == (tmp_path / "a", 2)
        assert again.checkpoints.latest() == again.resumed_from
        assert (again.path / "checkpoints" / "superseded" / "iteration_000004" / "state").is_file()
    assert len(read_metrics(tmp_path / "a" / "metrics.jsonl")) == 3


def test_a_failed_resume_changes_nothing(tmp_path: Path) -> None:
    with RunFolder.create(tmp_path, "a") as run:
        run.metrics.append({"iteration": 0})
    with pytest.raises(CheckpointError, match="holds no complete checkpoint"):
        RunFolder.resume(tmp_path / "a")
    with pytest.raises(CheckpointError, match="no such run folder"):
        RunFolder.resume(tmp_path / "b")
    assert len(read_metrics(tmp_path / "a" / "metrics.jsonl")) == 1
    assert not (tmp_path / "b").exists()


HOLD = """
import sys
from flexgym.runs import RunFolder
run = RunFolder.resume(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
run.close()
print("closed", flush=True)
"""
"""Opens a run, and closes it at the end of its input."""
LIVE_ON = "import time; time.sleep(60)"


@contextlib.contextmanager
def holder(run: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has a run open."""
    words = [sys.executable, "-c", HOLD + LIVE_ON, str(run)]
    with subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run with checkpoints at 0 and 2, and rows up to 3."""
    with RunFolder.create(tmp_path, "a") as run:
        train(run, range(4))
    return run.path


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_run_that_another_process_has_open_is_refused_and_left_as_it_is(finished: Path) -> None:
    with holder(finished) as process:
        before = contents(finished)
        message = f"{re.escape(str(finished))}: the run is open in another process \\({process.pid} on "
        for _ in range(2):  # the first failure must not have taken the lock or the note away
            with pytest.raises(CheckpointError, match=message):
                RunFolder.resume(finished)
        with pytest.raises(CheckpointError, match=message):
            RunFolder.resume(finished / "checkpoints" / "iteration_000000")
        assert contents(finished) == before
        with RunFolder.create(finished.parent, "a") as other:
            assert other.path.name == "a-2"


def test_a_killed_process_leaves_no_lock(finished: Path) -> None:
    with holder(finished) as process:
        process.kill()
        process.wait()
        with RunFolder.resume(finished) as run:
            assert run.start_iteration == 2


def test_a_closed_run_is_free_while_its_process_lives(finished: Path) -> None:
    with holder(finished) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        assert process.stdout.readline() == "closed\n"
        RunFolder.resume(finished).close()
        assert process.poll() is None


def test_a_run_opens_once_in_a_process_too(finished: Path) -> None:
    with (
        RunFolder.resume(finished),
        pytest.raises(CheckpointError, match="the run is open in this process, and only one process can write it"),
    ):
        RunFolder.resume(finished)
    RunFolder.resume(finished).close()


def test_what_fails_to_open_is_not_locked(finished: Path) -> None:
    for _ in range(2):
        with pytest.raises(ConfigError, match="keep: expected at least 1"):
            RunFolder.resume(finished, keep=0)
    RunFolder.resume(finished).close()


def test_a_child_that_was_forked_meanwhile_does_not_hold_a_closed_run(finished: Path) -> None:
    code = (
        "import os, sys, time\n"
        "from flexgym.runs import RunFolder\n"
        "run = RunFolder.resume(sys.argv[1])\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    time.sleep(60)\n"
        "    os._exit(0)\n"
        "run.close()\n"
        "RunFolder.resume(sys.argv[1]).close()\n"
        "assert os.waitpid(child, os.WNOHANG) == (0, 0), 'the child has ended'\n"
        "os.kill(child, 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(finished)], cwd=ROOT, check=True, timeout=60)


def test_without_locks_on_the_platform_runs_open_as_before(finished: Path) -> None:
    code = "import sys; sys.modules['fcntl'] = None\n" + HOLD
    RunFolder.resume(finished).close()
    words = [sys.executable, "-c", code, str(finished)]
    with RunFolder.resume(finished):
        done = subprocess.run(words, cwd=ROOT, input="", capture_output=True, text=True, timeout=60)
    assert done.stdout == "open\nclosed\n"


def test_paths_stay_right_when_the_working_folder_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with RunFolder.create("runs", "a") as run:
        assert run.shown == "runs/a"
        monkeypatch.chdir("/")
        train(run, range(1))
    assert (tmp_path / "runs" / "a" / "checkpoints" / "iteration_000000").is_dir()


def test_the_package_needs_no_ray() -> None:
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "import flexgym.runs, flexgym.runs.display, flexgym.core.media, flexgym.runs.interrupt, flexgym.core.yaml_files"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
