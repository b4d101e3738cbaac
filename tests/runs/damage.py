"""Checkpoints as training writes them, without training, and ways to damage their files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import flexgym
from flexgym.core.state_files import write_state
from flexgym.runs.checkpoints import CheckpointStore

SOURCE = Path(flexgym.__file__).parent / "shapes/checkpoints"
REQUIRED = ("algorithm/state.json", "algorithm/tensors.safetensors", "algorithm/learner", "generator")


def write_checkpoint(folder: Path, scale: float = 1.0) -> None:
    """Write the files of all trainers: state, a complete pipeline, a judge and a model of Stable-Baselines3."""
    weights = {name: scale * torch.arange(60.0).reshape(6, 10) for name in "abc"}
    moments = {number: {"step": torch.tensor(3.0), "exp_avg": weight} for number, weight in enumerate(weights.values())}
    write_state(folder / "algorithm", {"training_iteration": 3, "samples_so_far": 18, "random": [torch.arange(9)]})
    write_state(folder / "algorithm" / "learner", {"rl_module": weights, "optimizer": moments, "ema": weights})
    shutil.copytree(SOURCE / "t2i", folder / "generator")
    (folder / "generator" / "generation_config.json").write_text(json.dumps({"num_steps": 4}))
    shutil.copytree(SOURCE / "judge", folder / "judge", ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "judge" / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))
    write_state(folder / "model", {"parameters": weights, "counts": {"num_timesteps": 8}})


def write_run(folder: Path, iterations: tuple[int, ...] = (1, 2)) -> Path:
    """Return a run folder with checkpoints."""
    store = CheckpointStore(folder / "checkpoints")
    for iteration in iterations:
        store.publish(iteration, lambda path, scale=iteration: write_checkpoint(path, scale), required=REQUIRED)
    (folder / "config.yaml").write_text("run: {name: run}\n")
    (folder / "metrics.jsonl").write_text("".join(f'{{"iteration": {number}}}\n' for number in (0, *iterations)))
    return folder


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    """Flip one bit in the middle."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1 << int(np.random.default_rng(len(data)).integers(8))
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path], None]] = {
    "missing": remove,
    "empty": empty,
    "truncated": truncate,
    "flipped": flip,
}
