"""Where a judge's checkpoint lies, and how it was trained to be asked."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from flexgym.core.errors import CheckpointError, ConfigError
from flexgym.core.options import built_settings
from flexgym.judge.inputs import Inputs

EMBEDDED_JUDGE = "shapes-judge"
"""Name of the small judge that ships with the package; it knows the small world alone."""

CONFIG_NAME = "judge_config.json"
"""A file of a checkpoint folder with the fields of `JudgeConfig`."""

_CHECKPOINTS = Path(__file__).parents[1] / "shapes" / "checkpoints"
_MAX_BYTES = 64 * 1024
_Source = TypeVar("_Source")


@dataclass(frozen=True)
class JudgeConfig:
    """How a checkpoint was trained to be asked; what a user sets counts more.

    Attributes:
        inputs: fields of `flexgym.judge.inputs.Inputs` by name, such as the number of frames.
        decoding: fields of `flexgym.judge.backends.base.Decoding` by name, such as the length of replies.
        batch_size: requests that the transformers backend answers at once.
    """

    inputs: Mapping[str, Any] = field(default_factory=dict)
    decoding: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 8

    @property
    def max_pictures(self) -> int:
        """Most pictures in one request: the frames of two videos.

        Raises:
            UnknownNameError, ConfigError: `inputs` are none.
        """
        return 2 * built_settings("inputs", Inputs, self.inputs).num_frames


def locate_judge(source: _Source) -> _Source | Path:
    """The folder behind `EMBEDDED_JUDGE`; any other source as it is."""
    return _CHECKPOINTS / "judge" if source == EMBEDDED_JUDGE else source


def picture_limit(source: Any, most: int | None) -> dict[str, int]:
    """The limit that vLLM sets to what one request may show.

    Args:
        source: the judge.
        most: pictures; as many as the judge's own configuration asks for when None.

    Raises:
        ConfigError: fewer than one picture.
    """
    most = read_judge_config(source).max_pictures if most is None else most
    if most < 1:
        raise ConfigError(f"max_pictures must be at least 1, got {most}")
    return {"image": most, "video": 0}


def read_judge_config(source: Any) -> JudgeConfig:
    """The settings that a checkpoint folder carries; the defaults for all that is no folder or carries none.

    Args:
        source: whatever names a judge: a folder, a hub id, addresses, a backend.

    Raises:
        CheckpointError: the file is too large, or no JSON object.
        UnknownNameError: it holds a setting that there is none of; the message holds the nearest one.
        ConfigError: a value that cannot work.
    """
    located = locate_judge(source)
    if isinstance(located, Sequence) and not isinstance(located, str) and len(located) == 1:
        located = locate_judge(located[0])
    path = Path(located).expanduser() / CONFIG_NAME if isinstance(located, str | Path) else None
    if path is None or not path.is_file():
        return JudgeConfig()
    with path.open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    try:
        values = json.loads(data) if len(data) <= _MAX_BYTES else None
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object of at most {_MAX_BYTES} bytes")
    return built_settings(CONFIG_NAME, JudgeConfig, values)
