from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flexgym.runs.interrupt import NOTICE, GracefulInterrupt, resume_message

ROOT = Path(__file__).resolve().parents[2]

CHILD = """
import time
from flexgym.runs.interrupt import GracefulInterrupt
with GracefulInterrupt() as interrupt:
    print("ready", flush=True)
    while not interrupt.requested:
        time.sleep(0.01)
    print("finishing", flush=True)
    time.sleep(MORE)
    print("saved", flush=True)
"""


def run_child(more: float, interrupts: int) -> tuple[str, str, int]:
    command = [sys.executable, "-c", CHILD.replace("MORE", str(more))]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    lines = child.stdout.readline()
    for _ in range(interrupts):
        child.send_signal(signal.SIGINT)
        lines += child.stdout.readline()
    out, err = child.communicate(timeout=20)
    return lines + out, err, child.returncode


def test_the_first_interrupt_lets_the_iteration_end() -> None:
    out, err, code = run_child(0.1, 1)
    assert out == "ready\nfinishing\nsaved\n"
    assert err == f"\n{NOTICE}\n"
    assert code == 0


def test_the_second_interrupt_stops_at_once() -> None:
    out, err, code = run_child(60, 2)
    assert out == "ready\nfinishing\n"
    assert "KeyboardInterrupt" in err
    assert code in (-signal.SIGINT, 130)


def test_the_handler_before_comes_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    heard: list[str] = []
    with GracefulInterrupt(heard.append) as interrupt:
        assert signal.getsignal(signal.SIGINT) != before
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == before
    assert signal.getsignal(signal.SIGINT) == before
    assert heard == [NOTICE]


def test_another_thread_can_use_it_without_signals() -> None:
    result: list[bool] = []

    def work() -> None:
        with GracefulInterrupt(lambda text: None) as interrupt:
            result.append(interrupt.requested)
            interrupt.request()
            result.append(interrupt.requested)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert result == [False, True]
    assert signal.getsignal(signal.SIGINT) == before


def test_the_message_holds_the_command_to_go_on() -> None:
    command = ("python", "-m", "agents.pref_grpo")
    text = resume_message("runs/my run", Path("runs/my run/checkpoints/iteration_000012"), command=command)
    assert "iteration_000012" in text
    assert text.endswith("\n  python -m agents.pref_grpo --resume 'runs/my run'")
    assert "--resume" not in resume_message("runs/a", None, command=command)
