"""Trackers in general: they are chosen by name, keep one id, and cannot stop, slow or lose a run."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from flexgym.config import RunSettings
from flexgym.core.errors import ConfigError, UnknownNameError
from flexgym.judge import JudgeFailure, Verdict
from flexgym.judge.verdict import VerdictDimension
from flexgym.runs.folder import RunFolder
from flexgym.runs.judged import COLUMNS, JudgedGroup, judge_table
from flexgym.runs.loop import Measured
from flexgym.runs.metrics import read_metrics
from flexgym.runs.trackers import BackgroundTracker, Table, Tracker, Trackers, check_trackers, registry
from flexgym.runs.trackers.tensorboard import TensorBoard
from flexgym.types import GroupScores
from tests.runs.test_loop import Counter, run

TABLE = Table(("a",), (("x",),))


class Recorder(Tracker):
    """Keeps what it gets, or fails."""

    def __init__(self, *, fails: bool = False, waits: threading.Event | None = None) -> None:
        self.got: list[str] = []
        self.fails, self.waits = fails, waits

    def _take(self, what: str) -> None:
        if self.waits is not None:
            self.waits.wait(20)
        if self.fails:
            raise RuntimeError("no connection \x1b[2J")
        self.got.append(what)

    def metrics(self, row, iteration):
        self._take(f"row {iteration}")

    def image(self, name, image, iteration):
        self._take(f"image {name}")

    def video(self, name, frames, iteration, *, fps=8.0):
        self._take(f"video {name}")

    def table(self, name, table, iteration):
        self._take(f"table {name}")

    def rewind(self, last):
        self._take(f"rewind {last}")

    def close(self):
        self.got.append("close")


def feed(tracker: Tracker) -> None:
    tracker.metrics({"a": 1.0}, 1)
    tracker.image("grid", np.zeros((4, 4, 3), np.uint8), 1)
    tracker.video("film", np.zeros((2, 4, 4, 3), np.uint8), 1)
    tracker.table("judge", TABLE, 1)
    tracker.rewind(0)
    tracker.close()


def test_entries_arrive_in_order_on_another_thread():
    recorder = Recorder()
    background = BackgroundTracker("x", lambda: recorder)
    feed(background)
    background.close()
    assert recorder.got == ["row 1", "image grid", "video film", "table judge", "rewind 0", "close"]
    assert not background.news()


def test_a_failing_tracker_is_reported_once_and_given_up_after_three_failures():
    recorder = Recorder(fails=True)
    background = BackgroundTracker("x", lambda: recorder)
    feed(background)
    assert background.news() == [
        r"Tracker x: RuntimeError: no connection \x1b[2J. Training continues; metrics.jsonl has every row.",
        "Tracker x: 5 entries are missing there.",
    ]
    assert recorder.got == ["close"]


def test_a_tracker_that_cannot_connect_is_tried_again():
    calls = []

    def connect() -> Tracker:
        calls.append(1)
        if len(calls) < 2:
            raise ConnectionError("later")
        return recorder

    recorder = Recorder()
    background = BackgroundTracker("x", connect)
    background.metrics({}, 1)
    background.close()
    assert (len(calls), recorder.got, len(background.news())) == (2, ["row 1", "close"], 1)


def test_a_slow_tracker_keeps_nobody_waiting():
    released = threading.Event()
    background = BackgroundTracker("x", lambda: Recorder(waits=released))
    began = time.monotonic()
    for number in range(300):
        background.metrics({}, number)
    background.end()
    background.close(patience=0.1)
    assert time.monotonic() - began < 5
    (line,) = background.news()
    assert "takes entries more slowly than they come" in line
    released.set()


def test_a_run_survives_its_trackers(tmp_path: Path, monkeypatch, capsys):
    class Broken(TensorBoard):
        def metrics(self, row, iteration):
            raise SystemExit("gone")

    monkeypatch.setattr(registry, "_class_of", lambda name: Broken)
    folder = run(tmp_path, Counter(), iterations=4)
    assert [row["iteration"] for row in read_metrics(folder / "metrics.jsonl")] == [0, 1, 2, 3, 4]
    said = capsys.readouterr().out
    assert said.count("Tracker tensorboard: SystemExit: gone. Training continues") == 1
    assert (folder / "checkpoints" / "iteration_000004").is_dir()


def test_a_tracker_without_its_package_is_an_error_that_names_the_extra(tmp_path: Path, monkeypatch):
    (tmp_path / "wandb").mkdir()  # as runs offline leave it in the working folder; it is no package
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    for name in ("wandb", "mlflow", "swanlab", "trackio"):
        with pytest.raises(ConfigError, match=rf"run.trackers: .*pip install 'flexgym\[{name}\]'"):
            run(tmp_path, Counter(), trackers=[name])
    assert not (tmp_path / "run").exists()


def test_a_folder_of_the_name_is_no_package(tmp_path: Path, monkeypatch):
    (tmp_path / "swanlab_of_nobody").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not registry.is_installed("swanlab_of_nobody")
    assert registry.is_installed("tensorboard")


def test_trackers_are_chosen_by_name_or_with_settings():
    chosen = RunSettings.parse({"trackers": ["tensorboard", {"tracker": "wandb", "settings": {"project": "p"}}]})
    assert [each.tracker for each in chosen.trackers] == ["tensorboard", "wandb"]
    assert [each.tracker for each in RunSettings().trackers] == ["tensorboard"]
    with pytest.raises(ConfigError, match="wand"):
        RunSettings.parse({"trackers": ["wand"]})
    with pytest.raises(ConfigError, match="every tracker once"):
        RunSettings.parse({"trackers": ["wandb", "wandb"]})
    with pytest.raises(UnknownNameError, match="setting of tracker tensorboard"):
        check_trackers(RunSettings.parse({"trackers": [{"tracker": "tensorboard", "settings": {"x": 1}}]}).trackers)


def test_a_run_may_have_no_tracker(tmp_path: Path):
    folder = run(tmp_path, Counter(), iterations=1, trackers=())
    assert not (folder / "tensorboard").exists()
    assert len(read_metrics(folder / "metrics.jsonl")) == 2


def test_the_id_stays_with_a_run_and_is_no_path(tmp_path: Path):
    with RunFolder.create(tmp_path, "a") as first, RunFolder.create(tmp_path, "b") as second:
        assert first.id != second.id
        assert len(first.id) == 16
    folder = run(tmp_path, Counter(), iterations=1)
    before = (folder / "run_id").read_text()
    run(tmp_path, Counter(), iterations=2, resume=folder)
    assert (folder / "run_id").read_text() == before
    (folder / "run_id").write_text("../../other")
    with RunFolder.resume(folder) as again:
        assert len(again.id) == 16
        assert again.id.isalnum()


def group(caption: str, outcomes: list) -> JudgedGroup:
    pairs = np.array([[0, 1], [1, 0], [0, 2]][: len(outcomes)])
    return JudgedGroup(caption, GroupScores(np.float32([0.25, 0.75]), assessments=tuple(outcomes), pairs=pairs))


def test_judgments_become_a_table_of_plain_text():
    verdict = Verdict("Image 2", dims=(VerdictDimension("color", 3, 7.5),))
    failure = JudgeFailure("truncated", "ends at column 7")
    table = judge_table([group("a \x1b[31mred circle", [verdict, verdict, failure])])
    assert table is not None
    assert table.columns == COLUMNS
    assert table.rows == (
        (r"a \x1b[31mred circle", "sample 0", "sample 1", "sample 1", 0.25, 0.75, "color 3 : 7.5", ""),
        (r"a \x1b[31mred circle", "sample 1", "sample 0", "sample 0", 0.75, 0.25, "color 3 : 7.5", ""),
        (r"a \x1b[31mred circle", "sample 0", "reference 0", "none: truncated", 0.25, None, "ends at column 7", ""),
    )
    assert judge_table([]) is None
    many = judge_table([group(str(number), [verdict, verdict]) for number in range(80)])
    assert many is not None
    assert len(many.rows) == 80


def test_the_table_goes_out_where_samples_are_verified_or_saved(tmp_path: Path, monkeypatch):
    class Judged(Counter):
        def step(self) -> Measured:
            measured = super().step()
            return Measured(measured.metrics, judged=[group("a", [Verdict("Image 1")])])

    tables: list[int] = []
    monkeypatch.setattr(Trackers, "table", lambda self, name, table, iteration: tables.append(iteration))
    run(tmp_path, Judged(), iterations=5, checkpoint_interval=2)
    assert tables == [2, 4, 5]
