"""The Slurm script over two nodes of Ray on this machine: trained through, preempted, requeued and finished."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from flexgym.runs.checkpoints import latest_checkpoint, verify_checkpoint
from flexgym.runs.metrics import read_metrics

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy/slurm/train.sbatch"
PATIENCE_S = 900
"""Seconds for each step, long enough for a machine that is busy with other things."""
COMMANDS = {
    # A step of a job: here every node is this machine.
    "srun": 'while [[ $1 == --* ]]; do shift; done\nexec "$@"',
    "scontrol": '[[ $1 == show ]] && printf "n1\\nn2\\n" || echo "$@" >>"$REQUEUED"',
}
TRAINING = [
    *("python", "-m", "agents.grpo", "run.name=preempted", "run.checkpoint_interval=1000"),
    *("generator.sampling={num_steps: 2}", "algorithm.window={size: 1, first: [0, 0]}"),
    *("rollout.group_size=2", "rollout.prompts_per_iteration=4", "rollout.groups_per_forward=1"),
    *("reward.name=ShapesOracle", "verification.reward=null", "resources.num_learners=2"),
]


@pytest.fixture
def job(tmp_path):
    """Environment of the script, with the two commands of Slurm that it calls."""
    for name, text in COMMANDS.items():
        (tmp_path / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    number = next(number for number in range(os.getpid() % 9000, 10_000) if _is_free(20_000 + number))
    temporary = tempfile.mkdtemp(prefix="r", dir="/tmp")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
    yield {
        **clean,
        "PATH": os.pathsep.join([str(tmp_path), str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(ROOT),
        "SLURM_JOB_ID": str(number),
        "SLURM_JOB_NODELIST": "n[1-2]",
        "SLURM_CPUS_ON_NODE": "1",
        "RAY_TMPDIR": temporary,
        "HEAD_IP": "127.0.0.1",
        "REQUEUED": str(tmp_path / "requeued"),
    }
    shutil.rmtree(temporary, ignore_errors=True)


def _is_free(port):
    with socket.socket() as listening, contextlib.suppress(OSError):
        listening.bind(("127.0.0.1", port))
        return True
    return False


@contextlib.contextmanager
def running(job, folder, *overrides):
    """Run the script, and end what it has started as Slurm ends a job: by killing it."""
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(
            [SCRIPT, *TRAINING, f"run.root={folder / 'runs'}", *overrides],
            env=job, cwd=folder, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        below = [each for each in psutil.process_iter() if _session(each.pid) == process.pid]
        for each in below:
            with contextlib.suppress(psutil.Error):
                below += [child for child in each.children(recursive=True) if child not in below]
        for each in below:
            with contextlib.suppress(psutil.Error):
                each.kill()
        process.wait(30)


def _session(pid):
    with contextlib.suppress(ProcessLookupError):
        return os.getsid(pid)


def iterations(folder):
    path = folder / "runs/preempted/metrics.jsonl"
    return [row["iteration"] for row in read_metrics(path)] if path.exists() else []


@pytest.mark.slow
def test_a_preempted_job_is_requeued_and_finishes(job, tmp_path):
    with running(job, tmp_path, "run.iterations=1000") as process:
        deadline = time.monotonic() + PATIENCE_S
        while not any(iterations(tmp_path)):
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        # Ray's nodes get what every step of a preempted job gets, and the script what --signal=B:USR1 sends.
        for each in psutil.Process(process.pid).children():
            if "ray" in " ".join(each.cmdline()):
                each.terminate()
        process.send_signal(signal.SIGUSR1)
        assert process.wait(PATIENCE_S) == 128 + signal.SIGUSR1, (tmp_path / "log").read_text()
    reached = verify_checkpoint(latest_checkpoint(tmp_path / "runs/preempted"))
    assert reached == iterations(tmp_path)[-1] >= 1
    assert (tmp_path / "requeued").read_text() == f"requeue {job['SLURM_JOB_ID']}\n"
    with running(job, tmp_path, f"run.iterations={reached + 1}") as process:
        assert process.wait(PATIENCE_S) == 0, (tmp_path / "log").read_text()
    assert iterations(tmp_path) == list(range(reached + 2))
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["preempted"]
    log = (tmp_path / "log").read_text()
    assert log.count("2 nodes joined Ray") == 2
    assert log.count("Resuming ") == 1
