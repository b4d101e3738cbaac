"""Every signal in every phase of an iteration: ``python -m tests.demonstrations.signals --help``.

The signal goes to the whole process group, Ray's processes included, as from a terminal or a scheduler. Each case must
end with a complete checkpoint, with exit status 0 or 128 and the number of the signal, without a traceback, and its
resume must give the rows and weights of an undisturbed run.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from flexgym.runs.checkpoints import latest_checkpoint, verify_checkpoint
from flexgym.runs.interrupt import SIGNALS
from tests.demonstrations.phases import ITERATIONS, Trainer, at, own_group, rows, same_weights, trainers

REDUCED = {
    ("agent", "update"): (signal.SIGTERM,),
    ("judge", "saving"): (signal.SIGUSR1,),
    ("sb3", "building"): (signal.SIGHUP,),
    ("sb3", "rollout"): (signal.SIGTERM,),
}
"""Cases of the slow suite."""


def faults_of(trainer: Trainer, phase: str, number: signal.Signals, *, folder: Path, undisturbed: Path) -> list[str]:
    """Run one case and return what went wrong."""
    with at(trainer.phases[phase], lambda _: os.killpg(os.getpgrp(), number)) as calls:
        status, output = trainer.run(folder, "run.checkpoint_interval=1" if phase == "saving" else "run.iterations=3")
    faults = [] if calls[0] >= trainer.phases[phase][2] else ["the phase was not reached"]
    if "Traceback" in output:
        faults.append("a traceback")
    if phase == "building":
        expected = 128 + number
        faults += [] if "same command" in output else ["no word on how to start again"]
        faults += ["an empty run folder"] if folder.exists() else []
        return faults + ([] if status == expected else [f"status {status}"])
    if status != (0 if number == signal.SIGINT else 128 + number):
        faults.append(f"status {status}")
    if "--resume" not in output:
        faults.append("no command to resume")
    stopped = latest_checkpoint(folder)
    if stopped is None:
        return [*faults, "no complete checkpoint"]
    reached = verify_checkpoint(stopped)
    if reached >= ITERATIONS:
        faults.append("the run did not stop")
    if not same_weights(folder, undisturbed, reached):
        faults.append(f"other weights in the checkpoint of iteration {reached}")
    return faults + _faults_of_resume(trainer, folder, undisturbed)


def _faults_of_resume(trainer: Trainer, folder: Path, undisturbed: Path) -> list[str]:
    status, _ = trainer.run(folder, "--resume", str(folder))
    faults = [] if status == 0 else [f"the resume ended with {status}"]
    expected, found = rows(undisturbed), rows(folder)
    if [row["iteration"] for row in found] != [row["iteration"] for row in expected]:
        faults.append("other iterations after the resume")
    elif found != expected:
        faults.append("other rows after the resume")
    if not same_weights(folder, undisturbed, ITERATIONS):
        faults.append("other weights after the resume")
    return faults


def cases(known: dict[str, Trainer], *, reduced: bool) -> Iterator[tuple[str, str, signal.Signals]]:
    """Yield trainer, phase and signal of each case."""
    for name, trainer in known.items():
        for phase in trainer.phases:
            for number in REDUCED.get((name, phase), ()) if reduced else SIGNALS:
                yield name, phase, number


def main(folder: Path, *, reduced: bool, only: Sequence[str] | None = None, num_learners: int = 1) -> int:
    """Run the cases, print a line for each, and return the number of those with a fault."""
    own_group()
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    every = trainers(folder, num_learners=num_learners)
    known = {name: trainer for name, trainer in every.items() if only is None or name in only}
    undisturbed: dict[str, Path] = {}
    failed = total = 0
    for name, phase, number in cases(known, reduced=reduced):
        trainer, began = known[name], time.monotonic()
        if name not in undisturbed:
            undisturbed[name] = folder / f"{name}-undisturbed"
            status, output = trainer.run(undisturbed[name], "run.checkpoint_interval=1")
            assert status == 0, output
        case = folder / f"{name}-{phase}-{number.name}"
        faults = faults_of(trainer, phase, number, folder=case, undisturbed=undisturbed[name])
        failed, total = failed + bool(faults), total + 1
        said = "; ".join(faults) or "saved, resumed, equal"
        print(f"{name:6} {phase:13} {number.name:8} {time.monotonic() - began:5.1f} s  {said}", flush=True)
    print(f"{total - failed} of {total} cases as they must be")
    return failed


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--reduced", action="store_true", help="the cases of the slow suite")
    parser.add_argument("--only", nargs="*", help="names of trainers")
    parser.add_argument("--learners", type=int, default=1, help="learners of agents and judges; 0 trains in the driver")
    return parser.parse_args(words)


if __name__ == "__main__":
    chosen = parse(sys.argv[1:])
    place = chosen.folder or Path(tempfile.mkdtemp())
    sys.exit(min(1, main(place, reduced=chosen.reduced, only=chosen.only, num_learners=chosen.learners)))
