"""The run loop, on something that trains without learning."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from flexgym.config import RunSettings
from flexgym.core.errors import CheckpointError, ConfigError, ProcessLostError, RewardError
from flexgym.core.metrics import Max, Mean, Share
from flexgym.runs import loop
from flexgym.runs.folder import RunFolder
from flexgym.runs.loop import Measured, TrainingRun, crosses
from flexgym.runs.metrics import read_metrics
from flexgym.runs.verification import Verification

VALUE = Mean(label="count", panel="headline", format=".1f")
COMMAND = ("python", "-m", "agents.counter")


class Counter:
    """Counts its iterations; what it reports is of no algorithm that FlexGym has."""

    title, known, required = "Counter", {"counter/value": VALUE}, ("state",)

    def __init__(self, *, stride: int = 1, before_step: Callable[[Counter], Any] = lambda counter: None) -> None:
        self.iteration, self.stride, self.before_step = 0, stride, before_step
        self.calls: list[str] = []

    def describe(self):
        return {"counter": {"stride": self.stride}}

    def build(self, folder: RunFolder):
        self.calls.append("build")

    def restore(self, checkpoint: Path):
        self.calls.append("restore")
        self.iteration = int((checkpoint / "state").read_text())

    def measure(self, *, final: bool) -> Measured | None:
        self.calls.append("final" if final else "start")
        verified = Verification(["a"], np.zeros((1, 4, 4, 3), np.uint8), np.float32([1.0 if final else 0.0]))
        return Measured({} if final else {"counter/value": VALUE.with_value(self.iteration)}, verified)

    def step(self) -> Measured:
        self.before_step(self)
        self.iteration += self.stride
        return Measured(
            {
                "counter/value": VALUE.with_value(self.iteration),
                "nft/positive_share": Share(0.51, label="positive"),
                "nft/worst": Max(2.5),
                "samples": 4 * self.iteration,
            }
        )

    def save(self, folder: Path):
        (folder / "state").write_text(str(self.iteration))

    def summary(self, rows):
        return [f"{len(rows)} rows."]

    def close(self):
        self.calls.append("close")


class Clock:
    """Time that passes only in a step."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(loop.time, "monotonic", lambda: self.now)

    def wait(self, seconds: float) -> Callable[[Counter], None]:
        def step(counter: Counter) -> None:
            self.now += seconds

        return step


def run(tmp_path: Path, counter: Counter, *, resume: Path | None = None, **settings) -> Path:
    chosen = RunSettings(**{"root": str(tmp_path), "name": "run", "iterations": 3, **settings})
    return TrainingRun(counter, chosen, resume=resume, command=COMMAND).train()


def iterations(folder: Path) -> list[int]:
    return [row["iteration"] for row in read_metrics(folder / "metrics.jsonl")]


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").glob("iteration_*"))


def test_a_run_measures_trains_saves_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counter = Counter()
    folder = run(tmp_path, counter, checkpoint_interval=2)
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["iteration"] for row in rows] == [0, 1, 2, 3]
    assert [row.get("eval/accuracy") for row in rows] == [0.0, None, None, 1.0]
    assert checkpoints(folder) == ["iteration_000002", "iteration_000003"]
    assert [path.name for path in sorted((folder / "samples").iterdir())] == [
        "iteration_000000.png",
        "iteration_000003.png",
    ]
    assert [path.name for path in sorted((folder / "records").iterdir())] == [
        "held_out_000000.jsonl",
        "held_out_000003.jsonl",
    ]
    [start] = map(json.loads, (folder / "starts.jsonl").read_text().splitlines())
    assert (start["iteration"], start["command"]) == (0, " ".join(COMMAND))
    assert {"python", "flexgym", "torch"} <= start["versions"].keys()
    assert (folder / "config.yaml").read_text().endswith("counter:\n  stride: 1\n")
    assert counter.calls == ["build", "start", "final", "close"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["4 rows.", f"Metrics, samples and checkpoints: {folder}"]


def test_a_new_metric_reaches_display_tensorboard_and_rows_by_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(tmp_path, Counter(), iterations=1)
    shown = "verified accuracy 1.000  count 1.0  accuracy from 1.000  to 1.000  positive 51.0%  nft/worst 2.5"
    assert f"iteration 1/1  {shown}" in capsys.readouterr().out
    row = read_metrics(folder / "metrics.jsonl")[1]
    assert (row["nft/positive_share"], row["nft/worst"], row["samples"]) == (0.51, 2.5, 4)
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("nft/worst")] == [(1, 2.5)]
    # the resumed part shows what the first part measured under the same labels
    run(tmp_path, Counter(), resume=folder, iterations=2)
    assert "count 2.0" in capsys.readouterr().out


def test_a_run_resumes_from_its_newest_or_a_named_checkpoint(tmp_path: Path) -> None:
    folder = run(tmp_path, Counter(), iterations=2, checkpoint_interval=1)
    counter = Counter()
    assert run(tmp_path, counter, resume=folder, iterations=4) == folder
    assert (counter.calls, iterations(folder)) == (["build", "restore", "final", "close"], [0, 1, 2, 3, 4])
    counter = Counter()
    run(tmp_path, counter, resume=folder / "checkpoints" / "iteration_000001", iterations=3)
    assert iterations(folder) == [0, 1, 2, 3]
    assert (folder / "config_from_000001.yaml").exists()


def test_a_run_that_is_complete_only_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run(tmp_path, Counter())
    capsys.readouterr()
    run(tmp_path, Counter(), resume=folder)
    assert capsys.readouterr().out.splitlines() == ["4 rows.", f"Metrics, samples and checkpoints: {folder}"]


def test_time_ends_a_run_before_an_iteration_that_would_exceed_it(tmp_path: Path, monkeypatch, capsys) -> None:
    clock = Clock(monkeypatch)
    folder = run(tmp_path, Counter(before_step=clock.wait(20.0)), iterations=9, minutes=1.1)
    # after three iterations of 20 s, another one would end at 80 s of 66
    assert (iterations(folder), clock.now) == ([0, 1, 2, 3], 60.0)
    assert read_metrics(folder / "metrics.jsonl")[-1]["eval/accuracy"] == 1.0
    assert checkpoints(folder) == ["iteration_000003"]
    assert "--resume" not in capsys.readouterr().out


def test_the_longest_iteration_says_what_the_next_one_may_take(tmp_path: Path, monkeypatch) -> None:
    clock = Clock(monkeypatch)
    seconds = iter([30.0, 5.0, 5.0, 5.0])
    counter = Counter(before_step=lambda counter: clock.wait(next(seconds))(counter))
    assert iterations(run(tmp_path, counter, iterations=9, minutes=1.1)) == [0, 1, 2, 3]


def test_ctrl_c_finishes_the_iteration_and_says_how_to_resume(tmp_path: Path, capsys) -> None:
    counter = Counter(before_step=lambda counter: counter.iteration == 1 and os.kill(os.getpid(), signal.SIGINT))
    folder = run(tmp_path, counter, iterations=9)
    assert (iterations(folder), checkpoints(folder)) == ([0, 1, 2], ["iteration_000002"])
    assert counter.calls[-2:] == ["final", "close"]
    assert capsys.readouterr().out.endswith(f"python -m agents.counter --resume {folder}\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_other_signals_save_without_evaluating_and_rows_are_those_of_an_undisturbed_run(
    number, tmp_path: Path, capsys
) -> None:
    counter = Counter(before_step=lambda counter: counter.iteration == 1 and os.kill(os.getpid(), number))
    started = TrainingRun(counter, RunSettings(root=str(tmp_path), name="run", iterations=4), command=COMMAND)
    folder = started.train()
    assert (iterations(folder), checkpoints(folder)) == ([0, 1, 2], ["iteration_000002"])
    assert (started.stopped_by, counter.calls) == (number, ["build", "start", "close"])
    assert capsys.readouterr().out.endswith(f"python -m agents.counter --resume {folder}\n")
    run(tmp_path, Counter(), resume=folder, iterations=4)
    undisturbed = run(tmp_path / "other", Counter(), iterations=4)
    assert read_metrics(folder / "metrics.jsonl") == read_metrics(undisturbed / "metrics.jsonl")


def test_a_signal_in_the_last_iteration_lets_the_run_end(tmp_path: Path, capsys) -> None:
    counter = Counter(before_step=lambda counter: counter.iteration == 2 and os.kill(os.getpid(), signal.SIGTERM))
    started = TrainingRun(counter, RunSettings(root=str(tmp_path), iterations=3), command=COMMAND)
    started.train()
    assert started.stopped_by is None
    assert "--resume" not in capsys.readouterr().out


def test_a_signal_while_a_run_is_built_stops_it_at_once_and_leaves_no_folder(tmp_path: Path, capsys) -> None:
    class Slow(Counter):
        def build(self, folder: RunFolder):
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("the signal came too late")

    counter = Slow()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, counter)
    assert counter.calls == ["close"]
    assert not (tmp_path / "run").exists()
    assert "Start again with the same command." in capsys.readouterr().out
    folder = run(tmp_path, Counter())
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Slow(), resume=folder, iterations=9)
    assert f"--resume {folder}" in capsys.readouterr().out


class Losing(Counter):
    """Loses a process before the iterations named, each once."""

    def __init__(self, *lost_before: int) -> None:
        super().__init__(before_step=self._lose)
        self.lost_before = list(lost_before)

    def _lose(self, _: Counter) -> None:
        if self.lost_before and self.iteration == self.lost_before[0]:
            self.lost_before.pop(0)
            raise ProcessLostError("learner 1 of 2: its machine was lost")

    def build(self, folder: RunFolder):
        super().build(folder)
        self.iteration = 0


def test_a_lost_process_restarts_from_the_newest_checkpoint(tmp_path: Path, capsys) -> None:
    counter = Losing(1, 3, 4)
    folder = run(tmp_path, counter, iterations=5, checkpoint_interval=2)
    undisturbed = run(tmp_path / "other", Counter(), iterations=5, checkpoint_interval=2)
    assert read_metrics(folder / "metrics.jsonl") == read_metrics(undisturbed / "metrics.jsonl")
    assert checkpoints(folder) == checkpoints(undisturbed)
    fresh, restored = ["build", "start", "close"], ["build", "restore"]
    assert counter.calls == [*fresh, "build", "start", "close", *restored, "close", *restored, "final", "close"]
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("Lost", "Done", "Next"))]
    assert said[3:6] == [
        "Lost: learner 1 of 2: its machine was lost",
        f"Done: 3 of 5 iterations; the newest complete checkpoint in {folder} is iteration_000002.",
        "Next: training continues by itself from there (restart 2 of run.max_restarts=3).",
    ]
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    assert [event.step for event in events.Scalars("nft/worst")] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("restarts", "done"), [(0, 1), (1, 2)])
def test_after_the_last_restart_a_run_ends_with_the_command_that_resumes(restarts, done, tmp_path: Path) -> None:
    counter = Losing(1, 2, 2)
    with pytest.raises(ProcessLostError) as lost:
        run(tmp_path, counter, checkpoint_interval=1, max_restarts=restarts)
    lines = str(lost.value).splitlines()
    assert lines[1].startswith(f"Done: {done} of 3 iterations")
    assert lines[2] == f"To continue: python -m agents.counter --resume {tmp_path / 'run'}"
    assert counter.calls[-1] == "close"


def test_a_process_lost_after_a_signal_is_not_waited_for(tmp_path: Path) -> None:
    def stop_and_lose(counter: Counter) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        raise ProcessLostError("every learner")

    with pytest.raises(ProcessLostError, match="start it again"):
        run(tmp_path, Counter(before_step=stop_and_lose))


def test_a_second_ctrl_c_stops_at_once(tmp_path: Path) -> None:
    def interrupt_twice(counter: Counter) -> None:
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)

    counter = Counter(before_step=interrupt_twice)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, counter)
    assert counter.calls[-1] == "close"
    assert iterations(tmp_path / "run") == [0]


def test_a_reward_that_fails_ends_the_run_with_what_was_learned(tmp_path: Path, capsys) -> None:
    def fail(counter: Counter) -> None:
        if counter.iteration == 2:
            raise RewardError("no scores")

    with pytest.raises(RewardError, match="no scores"):
        run(tmp_path, Counter(before_step=fail), iterations=9)
    assert checkpoints(tmp_path / "run") == ["iteration_000002"]
    assert "--resume" in capsys.readouterr().out


def test_what_cannot_be_built_is_closed_and_its_folder_is_free_for_others(tmp_path: Path) -> None:
    folder = run(tmp_path, Counter())

    class Unbuildable(Counter):
        def build(self, folder: RunFolder):
            raise ConfigError("no such generator")

    counter = Unbuildable()
    opened = TrainingRun(counter, RunSettings(), resume=folder)
    with pytest.raises(CheckpointError, match="the run is open in this process"):
        RunFolder.resume(folder)
    with pytest.raises(ConfigError, match="no such generator"):
        opened.train()
    assert counter.calls == ["close"]
    RunFolder.resume(folder).close()


def test_without_anything_to_measure_no_row_comes_before_the_first_iteration(tmp_path: Path, capsys) -> None:
    class Unmeasured(Counter):
        def measure(self, *, final: bool):
            return None

    folder = run(tmp_path, Unmeasured())
    assert iterations(folder) == [1, 2, 3]
    assert capsys.readouterr().out.endswith(f"Metrics and checkpoints: {folder}\n")


def test_a_step_may_finish_several_iterations(tmp_path: Path) -> None:
    folder = run(tmp_path, Counter(stride=3), iterations=10, checkpoint_interval=4)
    assert iterations(folder) == [0, 3, 6, 9, 12]
    assert checkpoints(folder) == ["iteration_000006", "iteration_000009", "iteration_000012"]
    assert [crosses(4, *pair) for pair in ((0, 3), (3, 4), (3, 9), (4, 7))] == [False, True, True, False]
    assert not crosses(0, 0, 9)


class Hacked(Counter):
    """Its reward rises while held-out accuracy falls."""

    def step(self) -> Measured:
        self.iteration += 1
        scores = np.float32([1.0] * max(0, 10 - self.iteration) + [0.0] * min(10, self.iteration))
        verified = Verification(list("abcdefghij"), np.zeros((10, 4, 4, 3), np.uint8), scores)
        return Measured({"reward/mean": 0.1 * self.iteration}, verified)


@pytest.mark.parametrize(("stop", "last"), [(False, 8), (True, 4)])
def test_a_hacked_reward_is_announced_once_and_may_end_the_run(stop, last, tmp_path, capsys):
    folder = run(tmp_path, Hacked(), iterations=8, alarm={"patience": 3, "drop": 0.1, "stop": stop})
    assert iterations(folder)[-1] == last
    assert checkpoints(folder)[-1] == f"iteration_{last:06d}"
    said = capsys.readouterr().out
    assert said.count("The reward may be hacked: eval/accuracy fell from 0.9 at iteration 1") == 1


class Monitored(Counter):
    """Its reward rises while a monitor falls; nothing is verified."""

    def step(self) -> Measured:
        self.iteration += 1
        return Measured({"reward/mean": 0.1 * self.iteration, "monitor/clip": 1.0 - 0.1 * self.iteration})


def test_monitors_are_checked_where_a_run_saves(tmp_path):
    alarm = {"patience": 2, "drop": 0.1, "stop": True}
    folder = run(tmp_path, Monitored(), iterations=8, checkpoint_interval=3, alarm=alarm)
    assert iterations(folder)[-1] == 3


def test_no_alarm_without_patience(tmp_path, capsys):
    run(tmp_path, Hacked(), iterations=6, alarm={"patience": 0})
    assert "hacked" not in capsys.readouterr().out
