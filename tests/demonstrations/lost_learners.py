"""A learner killed in each phase: ``python -m tests.demonstrations.lost_learners [FOLDER] [--reduced]``.

The run must report the loss in three lines, finish by itself, and have the rows and weights of an undisturbed one.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from tests.demonstrations.phases import ITERATIONS, Trainer, at, rows, same_weights, trainers

REDUCED = (("agent", "update"),)
"""Cases of the slow suite."""


def learners() -> set[int]:
    """Return the ids of the learner processes that descend from this process."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::_WrappedExecutable"):
                found.add(process.pid)
    return found


def kill_a_learner(but: set[int], patience_s: float = 60.0) -> None:
    """Kill one learner process, once there is one that does not belong to an earlier run."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        for pid in learners() - but:
            os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.05)


def faults_of(trainer: Trainer, phase: str, *, folder: Path, undisturbed: Path) -> list[str]:
    """Run one case and return what went wrong."""

    def soon(_: Any) -> None:
        threading.Timer(0.1, kill_a_learner, [learners() if phase == "building" else set()]).start()

    with at(trainer.phases[phase], soon) as calls:
        status, output = trainer.run(folder, "run.checkpoint_interval=2")
    faults = [] if calls[0] >= trainer.phases[phase][2] else ["the phase was not reached"]
    if status != 0:
        return [*faults, f"status {status}: {output[-2000:]}"]
    words = [line.split()[0] for line in output.splitlines() if line.startswith(("Lost: ", "Done: ", "Next: "))]
    if words != ["Lost:", "Done:", "Next:"] or "Traceback" in output:
        faults.append(f"another report: {output}")
    if rows(folder) != rows(undisturbed):
        faults.append("other rows")
    if not same_weights(folder, undisturbed, ITERATIONS):
        faults.append("other weights")
    return faults


def main(folder: Path, *, reduced: bool) -> int:
    """Run the cases, print a line for each, and return the number of those with a fault."""
    failed = total = 0
    for name, trainer in trainers(folder, num_learners=2).items():
        phases = [phase for phase in trainer.phases if not reduced or (name, phase) in REDUCED]
        if name == "sb3" or not phases:
            continue
        undisturbed = folder / f"{name}-undisturbed"
        status, output = trainer.run(undisturbed, "run.checkpoint_interval=2")
        assert status == 0, output
        for phase in phases:
            began = time.monotonic()
            faults = faults_of(trainer, phase, folder=folder / f"{name}-{phase}", undisturbed=undisturbed)
            failed, total = failed + bool(faults), total + 1
            said = "; ".join(faults) or "restarted, equal"
            print(f"{name:6} {phase:13} {time.monotonic() - began:5.1f} s  {said}", flush=True)
    print(f"{total - failed} of {total} cases as they must be")
    return failed


if __name__ == "__main__":
    arguments = [word for word in sys.argv[1:] if word != "--reduced"]
    place = Path(arguments[0]) if arguments else Path(tempfile.mkdtemp())
    sys.exit(min(1, main(place, reduced="--reduced" in sys.argv)))
