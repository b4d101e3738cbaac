"""A training run whose judge is a server in a process of its own, which is killed in mid-run."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest

from flexgym.commands.train import train_words
from flexgym.runs.metrics import read_metrics

pytestmark = pytest.mark.slow

SMALL = [
    "rollout.prompts_per_iteration=2",
    "rollout.groups_per_forward=1",
    "rollout.group_size=3",
    "algorithm.window={size: 2, strategy: random, first: [0, 1]}",
    "generator.sampling={num_steps: 4}",
    "reward.name=UnifiedRewardFlex",
    "verification.num_prompts=4",
]


class JudgeServer:
    """The scripted server; every start listens at the same address."""

    def __init__(self):
        self.port, self.process = 0, None
        self.start()

    def start(self):
        module = [sys.executable, "-m", "tests.judge.backends.scripted_server", "{}", f"--port={self.port}"]
        self.process = subprocess.Popen(module, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline())

    def kill(self):
        self.process.kill()
        self.process.communicate()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


@pytest.fixture
def server():
    server = JudgeServer()
    yield server
    server.kill()


@contextmanager
def training(run: Path, server: JudgeServer, *arguments: str, wait_s: float):
    settings = f"reward.settings={{judge: '{server.url}', backend_settings: {{wait_for_server_s: {wait_s}}}}}"
    where = [f"run.root={run.parent}", f"run.name={run.name}"]
    command = [*train_words("pref_grpo"), *SMALL, settings, *where, *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def rows(run: Path) -> list[dict]:
    return read_metrics(run / "metrics.jsonl") if (run / "metrics.jsonl").exists() else []


def wait_until(true: Callable[[], bool], process: subprocess.Popen, timeout_s: float = 240.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_training_waits_for_a_killed_server_and_goes_on(tmp_path: Path, server: JudgeServer, capsys):
    run = tmp_path / "waits"
    with training(run, server, "run.iterations=500", wait_s=300.0) as process:
        wait_until(lambda: len(rows(run)) >= 4, process)
        server.kill()
        time.sleep(2.0)  # what was judged by then may still finish one iteration
        stood_at, down_s = len(rows(run)), 5.0
        time.sleep(down_s)
        assert process.poll() is None
        assert len(rows(run)) == stood_at
        server.start()
        returned = time.monotonic()
        wait_until(lambda: len(rows(run)) > stood_at, process)
        resumed_s = time.monotonic() - returned
        wait_until(lambda: len(rows(run)) >= stood_at + 3, process)
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    with capsys.disabled():
        print(
            f"\nserver away for {2.0 + down_s:.0f} s; the next iteration was done {resumed_s:.1f} s after it returned"
        )
    done = rows(run)
    assert [row["iteration"] for row in done] == list(range(len(done)))
    assert all(row["reward/failures"] == 0 and row["reward/unscored_share"] == 0 for row in done[1:])


def test_without_a_server_training_saves_and_says_what_to_do(tmp_path: Path, server: JudgeServer):
    run = tmp_path / "stops"
    with training(run, server, "run.iterations=500", wait_s=3.0) as process:
        wait_until(lambda: len(rows(run)) >= 4, process)
        server.kill()
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    words = " ".join(output.split())
    assert "no judge server responded within 3 s" in words
    assert "flexgym judge serve" in words
    assert "--resume" in words
    newest = sorted((run / "checkpoints").glob("iteration_*"))[-1]
    saved = rows(run)[-1]["iteration"]
    assert int(newest.name.split("_")[1]) == saved
    server.start()
    with training(run, server, f"run.iterations={saved + 2}", f"--resume={run}", wait_s=3.0) as process:
        output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    assert [row["iteration"] for row in rows(run)] == list(range(saved + 3))
