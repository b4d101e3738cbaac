"""Send judge calls to a server with every fault, and report losses, CPU time and memory.

    python -m tests.demonstrations.judge_calls [--calls 100000]

The server runs in a process of its own and, by a fixed seed, cuts, resets, delays, drips, garbles, truncates and
doubles its responses, asks to wait with 429 and 503, and dies now and then.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import get_args

import numpy as np
import psutil

from flexgym.judge import JudgeFailure
from flexgym.judge.backends.base import ChatRequest, Decoding, Picture
from flexgym.judge.backends.server import ServerBackend
from flexgym.judge.protocol import FailureKind
from tests.judge.backends.scripted_server import GOOD, Script, script_json

FAULTS = Script(
    drop=0.03, busy=0.03, broken=0.03, stall=0.001, truncated=0.03, garbage=0.02, cut_off=0.02, rejected=0.01,
    reset=0.03, unavailable=0.03, slow=0.02, duplicate=0.03, foreign=0.02, garbled=0.02, down_s=1.0,
)  # fmt: skip
ENDINGS = {
    **dict.fromkeys(GOOD, "stop"),
    "cut_off": "length",
    "garbage": "server_error",
    "rejected": "server_error",
    "stall": "timed_out",
}
KINDS = ("stop", "length", *get_args(FailureKind))
PICTURES = tuple(Picture(bytes([number]) * 600, "image/jpeg", f"picture-{number}") for number in range(2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=100_000)
    report = run(parser.parse_args().calls)
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    if report["lost"] or report["swapped"] or report["doubled"] or report["wrong_ending"]:
        sys.exit(1)


def run(calls: int, *, parts: int = 10, deadline_s: float = 15.0) -> dict:
    """Send the calls in parts and count what went wrong; the counts of a client without faults are 0."""
    script = Script(**{**FAULTS.__dict__, "die_every": max(calls // 8, 1)})
    command = [sys.executable, "-m", "tests.judge.backends.scripted_server", script_json(script)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    backend = ServerBackend(
        f"http://127.0.0.1:{int(server.stdout.readline())}/v1", deadline_s=deadline_s, max_attempts=30
    )
    # Allocated at once, so that the record of the calls does not look like a leak.
    record = np.full((3, calls), -1, np.int32)
    process, memory = psutil.Process(), []
    started, spent = time.monotonic(), time.process_time()
    for part in range(parts):
        numbers = range(part * calls // parts, (part + 1) * calls // parts)
        asked = [ChatRequest(PICTURES, f"compare pair-{number}") for number in numbers]
        outcomes = backend.complete(asked, Decoding())
        for number, outcome in zip(numbers, outcomes, strict=True):
            record[:, number] = _summary(outcome)
        del asked, outcomes, outcome
        memory.append(round(process.memory_info().rss / 2**20, 1))
    seconds, cpu = time.monotonic() - started, time.process_time() - spent
    metrics = backend.metrics()
    backend.close()
    counted = json.loads(server.communicate()[0])
    return {
        "calls": calls,
        **_wrong(record, counted["fates"]),
        "endings": {KINDS[kind]: int(count) for kind, count in enumerate(np.bincount(record[0])) if count},
        "retries": int(metrics["retries"]),
        "deaths_of_the_server": counted["deaths"],
        "cpu_ms_per_call_of_the_client": round(metrics["cpu_ms_per_request"], 3),
        "cpu_ms_per_call_of_the_process": round(1000 * cpu / calls, 3),
        "rss_mib_after_the_first_part": memory[0],
        "rss_mib_at_the_end": memory[-1],
        "rss_mib_after_each_part": memory,
        "seconds": round(seconds, 1),
    }


def _summary(outcome) -> tuple[int, int, int]:
    """Return how a call ended and, for a good answer, whose it is and its number; otherwise -1."""
    if isinstance(outcome, JudgeFailure):
        return KINDS.index(outcome.kind), -1, -1
    if outcome.finish_reason != "stop":
        return KINDS.index(outcome.finish_reason), -1, -1
    answer = json.loads(outcome.text)
    number = answer["prompt"].removeprefix("pair-")
    return KINDS.index("stop"), int(number) if number.isdigit() else -2, int(answer["reason"])


def _wrong(record: np.ndarray, fates: dict) -> dict[str, int]:
    kinds, whose, serials = record
    expected = [ENDINGS.get(fates.get(f"pair-{number}")) for number in range(len(kinds))]
    told = [KINDS[kind] for kind in kinds]
    good = kinds == KINDS.index("stop")
    return {
        "lost": int((kinds < 0).sum()),
        "swapped": int((whose[good] != np.flatnonzero(good)).sum()),
        "doubled": int(good.sum() - len(np.unique(serials[good]))),
        "wrong_ending": sum(one not in (other, "timed_out") for one, other in zip(told, expected, strict=True)),
        "timed_out_after_faults": sum(one == "timed_out" != other for one, other in zip(told, expected, strict=True)),
    }


if __name__ == "__main__":
    main()
