from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flexgym.errors import CheckpointError, ConfigError
from flexgym.runs import RunFolder, read_metrics

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
    with pytest.raises(CheckpointError, match="holds no whole checkpoint"):
        RunFolder.resume(tmp_path / "a")
    with pytest.raises(CheckpointError, match="no such run folder"):
        RunFolder.resume(tmp_path / "b")
    assert len(read_metrics(tmp_path / "a" / "metrics.jsonl")) == 1
    assert not (tmp_path / "b").exists()


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
        "import flexgym.runs, flexgym.runs.display, flexgym.runs.media, flexgym.runs.interrupt, flexgym.runs.yaml_files"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
