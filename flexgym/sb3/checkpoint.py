"""Models of Stable-Baselines3 on the disk: the library's own zip, and beside it what it leaves out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file, recursive_setattr

from flexgym.core.errors import CheckpointError
from flexgym.core.json_text import read_json_file

MODEL, COUNTS, REPLAY = "model.zip", "counts.json", "replay_buffer.npz"
_COUNTS = ("num_timesteps", "_n_updates", "_episode_num")


def save_model(model: BaseAlgorithm, folder: Path) -> None:
    """Write a model: ``PPO.load(folder / "model.zip")`` reads it as any other of Stable-Baselines3.

    Args:
        model: of any algorithm.
        folder: that exists. Experience of off-policy algorithms is written as well.
    """
    model.save(folder / MODEL)
    (folder / COUNTS).write_text(json.dumps({name: getattr(model, name) for name in _COUNTS}), encoding="utf-8")
    buffer = getattr(model, "replay_buffer", None)
    if buffer is not None:
        rows: dict[str, Any] = {name: array[: buffer.size()] for name, array in _arrays(buffer).items()}
        np.savez(folder / REPLAY, pos=buffer.pos, full=buffer.full, **rows)


def restore_model(model: BaseAlgorithm, folder: Path) -> None:
    """Restore weights, optimizers, counts and experience of a model that was built in the same way.

    ``PPO.load`` unpickles what it finds in the file and so can run code of whoever wrote it; here nothing is unpickled.

    Args:
        model: freshly built.
        folder: that `save_model` wrote.

    Raises:
        CheckpointError: when a part is missing, or belongs to a model that was built otherwise.
    """
    try:
        _, parameters, variables = load_from_zip_file(folder / MODEL, device=model.device, load_data=False)
        model.set_parameters(parameters, exact_match=True, device=model.device)
        for name, value in (variables or {}).items():
            recursive_setattr(model, f"{name}.data", value.data)
        for name, count in read_json_file(folder / COUNTS).items():
            setattr(model, name, int(count))
        if (buffer := getattr(model, "replay_buffer", None)) is not None:
            _restore_buffer(buffer, folder / REPLAY)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder}: this checkpoint does not fit a {type(model).__name__} as the recipe builds it ({error}): resume"
            " with the recipe that it was made with"
        ) from error


def _restore_buffer(buffer: Any, path: Path) -> None:
    with np.load(path, allow_pickle=False) as saved:
        buffer.pos, buffer.full = int(saved["pos"]), bool(saved["full"])
        for name, array in _arrays(buffer).items():
            array[: buffer.size()] = saved[name]


def _arrays(buffer: Any) -> dict[str, NDArray[Any]]:
    """Return the arrays of a replay buffer by name."""
    parts = {name: value if isinstance(value, dict) else {"": value} for name, value in vars(buffer).items()}
    return {
        f"{name}.{key}" if key else name: value
        for name, part in parts.items()
        for key, value in part.items()
        if isinstance(value, np.ndarray)
    }
