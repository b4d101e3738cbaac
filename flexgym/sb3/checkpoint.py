"""Models of Stable-Baselines3 on the disk, as JSON and safetensors; the library's own zip file holds a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr, recursive_setattr

from flexgym.core.errors import CheckpointError
from flexgym.core.state_files import STATE, TENSORS, read_state, write_state

MODEL = "model"
"""Folder of a checkpoint that holds the model."""
STATE_FILES = (f"{MODEL}/{STATE}", f"{MODEL}/{TENSORS}")
"""Files of a checkpoint."""
_COUNTS = ("num_timesteps", "_n_updates", "_episode_num", "_n_calls")
"""Counts of the algorithms; `DQN` alone has the last, which times the updates of its target network."""


def save_model(model: BaseAlgorithm, folder: Path) -> None:
    """Write weights, optimizers, counts and the experience of off-policy algorithms.

    Args:
        model: of any algorithm.
        folder: where to; `restore_model` reads it.
    """
    _, variables = model._get_torch_save_params()
    buffer = getattr(model, "replay_buffer", None)
    state = {
        "parameters": model.get_parameters(),
        "variables": {name: recursive_getattr(model, name).detach() for name in variables or ()},
        "counts": {name: getattr(model, name) for name in _counts(model)},
        "buffer": None if buffer is None else _buffer_state(buffer),
    }
    write_state(folder / MODEL, state)


def restore_model(model: BaseAlgorithm, folder: Path) -> None:
    """Restore weights, optimizers, counts and experience of a model that was built in the same way.

    ``PPO.load`` unpickles what it finds in a file and so can run code of whoever wrote it; here nothing is unpickled.
    ``model.save`` afterwards writes a file for ``PPO.load``.

    Args:
        model: freshly built.
        folder: that `save_model` wrote.

    Raises:
        CheckpointError: when a part is missing, or belongs to a model that was built otherwise.
    """
    if (folder / "model.zip").exists() and not (folder / MODEL).exists():
        raise CheckpointError(
            f"{folder}: this checkpoint holds model.zip, as earlier versions of FlexGym wrote it, and with it a pickle,"
            " which can run code when it is read. It is not opened: start a new run"
        )
    try:
        state = read_state(folder / MODEL)
        model.set_parameters(state["parameters"], exact_match=True, device=model.device)
        for name, value in state["variables"].items():
            recursive_setattr(model, f"{name}.data", value.to(model.device))
        for name in _counts(model):
            setattr(model, name, int(state["counts"][name]))
        if (buffer := getattr(model, "replay_buffer", None)) is not None:
            _restore_buffer(buffer, state["buffer"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise CheckpointError(
            f"{folder}: this checkpoint does not fit a {type(model).__name__} as the recipe builds it ({error}): resume"
            " with the recipe that it was made with"
        ) from error


def _counts(model: BaseAlgorithm) -> list[str]:
    return [name for name in _COUNTS if hasattr(model, name)]


def _buffer_state(buffer: Any) -> dict[str, Any]:
    rows = {name: torch.from_numpy(array[: buffer.size()]) for name, array in _arrays(buffer).items()}
    return {"pos": np.array(buffer.pos), "full": np.array(buffer.full), "rows": rows}


def _restore_buffer(buffer: Any, state: Mapping[str, Any]) -> None:
    buffer.pos, buffer.full = int(state["pos"]), bool(state["full"])
    for name, array in _arrays(buffer).items():
        array[: buffer.size()] = state["rows"][name].numpy()


def _arrays(buffer: Any) -> dict[str, NDArray[Any]]:
    """Return the arrays of a replay buffer by name."""
    parts = {name: value if isinstance(value, dict) else {"": value} for name, value in vars(buffer).items()}
    return {
        f"{name}.{key}" if key else name: value
        for name, part in parts.items()
        for key, value in part.items()
        if isinstance(value, np.ndarray)
    }
