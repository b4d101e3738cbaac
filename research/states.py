"""The last state of a training on disk, whole at any moment, even if the process is killed while it writes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flexgym.core.state_files import read_state, write_state


def replace_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a state beside the earlier one, and then put it in its place.

    Args:
        folder: of the state.
        state: plain values, arrays and tensors, see `flexgym.core.state_files.write_state`.
    """
    fresh, former = _beside(folder)
    shutil.rmtree(fresh, ignore_errors=True)
    write_state(fresh, state)
    shutil.rmtree(former, ignore_errors=True)
    if folder.exists():
        folder.rename(former)
    fresh.rename(folder)
    shutil.rmtree(former, ignore_errors=True)


def recover_state(folder: Path) -> dict[str, Any] | None:
    """Read the last whole state that `replace_state` wrote; None if there is none."""
    fresh, former = _beside(folder)
    if not folder.exists() and former.exists():
        fresh.rename(folder)  # which was whole before the earlier one made room
    return read_state(folder) if folder.exists() else None


def _beside(folder: Path) -> tuple[Path, Path]:
    return folder.with_name(f"{folder.name}_new"), folder.with_name(f"{folder.name}_old")
