from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from flexgym.runs.interrupt import NOTICE, SIGNALS, GracefulInterrupt, exit_status, resume_message, stopping_signal

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


@pytest.mark.parametrize("number", SIGNALS)
def test_every_signal_asks_first_and_stops_second(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    with GracefulInterrupt(lambda text: None) as interrupt:
        os.kill(os.getpid(), number)
        assert (interrupt.requested, interrupt.signal) == (True, number)
        assert interrupt.is_urgent == (number != signal.SIGINT)
        with pytest.raises(KeyboardInterrupt) as stopped:
            os.kill(os.getpid(), signal.SIGTERM)
    assert exit_status(stopping_signal(stopped.value)) == 143
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_where_nothing_is_worth_finishing_the_first_signal_stops() -> None:
    with GracefulInterrupt(lambda text: None) as interrupt:
        with interrupt.at_once(), pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGHUP)
        assert not interrupt.requested


def test_a_library_that_takes_a_signal_over_loses_it_again() -> None:
    with GracefulInterrupt(lambda text: None) as interrupt:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        interrupt.reinstall()
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.requested


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup leaves it
    try:
        with GracefulInterrupt(lambda text: None) as interrupt:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not interrupt.requested
    finally:
        signal.signal(signal.SIGHUP, before)


CLOSED = """
import sys, time
from flexgym.runs.display import TrainingDisplay
from flexgym.runs.interrupt import GracefulInterrupt
display = TrainingDisplay(3, title="run")
with display, GracefulInterrupt(display.announce) as interrupt:
    display.note("ready")
    sys.stdout.flush()
    while not interrupt.requested:
        time.sleep(0.01)
    display.update({"iteration": 1})
    display.note("saved")
open(sys.argv[1], "w").write(str(interrupt.requested))
"""


def test_a_closed_terminal_does_not_keep_a_run_from_saving(tmp_path: Path) -> None:
    master, terminal = os.openpty()
    command = [sys.executable, "-c", CLOSED, str(tmp_path / "saved")]
    environment = {**os.environ, "TERM": "xterm"}
    child = subprocess.Popen(
        command, cwd=ROOT, stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True, env=environment
    )
    os.close(terminal)
    shown = b""
    while b"ready" not in shown:
        shown += os.read(master, 4096)
    os.close(master)
    child.send_signal(signal.SIGHUP)
    assert child.wait(timeout=20) == 0
    assert (tmp_path / "saved").read_text() == "True"


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
