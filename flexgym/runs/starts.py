"""``starts.jsonl``: when a run was started and resumed, by which versions, on which machine."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from flexgym.core.files import open_writing, teaching_disk_errors
from flexgym.core.text import one_line

STARTS = "starts.jsonl"
PACKAGES = (
    *("flexgym", "torch", "diffusers", "transformers", "peft", "trl", "ray", "gymnasium", "stable-baselines3"),
    *("numpy", "vllm"),
)
"""Packages whose versions are kept."""
_NVIDIA = Path("/proc/driver/nvidia/gpus")


def record_start(run: Path, *, iteration: int, command: Sequence[str]) -> None:
    """Append a line about this start.

    Args:
        run: the run folder.
        iteration: finished iterations that it starts from.
        command: words that start the program.
    """
    row = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "iteration": iteration,
        "command": " ".join(command),
        "versions": installed_versions(),
        "machine": this_machine(),
    }
    with teaching_disk_errors(f"{run / STARTS} cannot be written"), open_writing(run / STARTS, append=True) as file:
        file.write(json.dumps(row).encode() + b"\n")


def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of those of `PACKAGES` that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def this_machine() -> dict[str, Any]:
    """Return operating system, number of cores and names of GPUs, without waking a GPU."""
    gpus = [_model(path) for path in sorted(_NVIDIA.glob("*/information"))]
    return {"system": platform.platform(), "cores": os.cpu_count(), "gpus": gpus}


def _model(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        return "unknown"
    return next((one_line(line.partition(":")[2]) for line in lines if line.startswith("Model:")), "unknown")
