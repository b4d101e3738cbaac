"""Locate judge checkpoints and read the settings they were trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from flexgym.core.errors import CheckpointError, ConfigError
from flexgym.core.json_text import read_json_file
from flexgym.core.options import built_settings
from flexgym.judge.inputs import Inputs

EMBEDDED_JUDGE = "shapes-judge"
"""Name of the small judge that ships with the package; it only supports the small world."""

CONFIG_NAME = "judge_config.json"
"""Name of the file in a checkpoint folder that stores the fields of `JudgeConfig`."""

_CHECKPOINTS = Path(__file__).parents[1] / "shapes" / "checkpoints"
_MAX_BYTES = 64 * 1024
_Source = TypeVar("_Source")


@dataclass(frozen=True)
class JudgeConfig:
    """Settings that a judge checkpoint was trained with; settings given by the user take precedence.

    Attributes:
        inputs: fields of `flexgym.judge.inputs.Inputs` by name, such as the number of frames.
        decoding: fields of `flexgym.judge.backends.base.Decoding` by name, such as the maximum length of replies.
        batch_size: number of requests that the transformers backend processes at once.
    """

    inputs: Mapping[str, Any] = field(default_factory=dict)
    decoding: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 8

    @property
    def max_pictures(self) -> int:
        """Return the maximum number of images per request, which is the number of frames of two videos.

        Raises:
            UnknownNameError, ConfigError: if ``inputs`` is not valid.
        """
        return 2 * built_settings("inputs", Inputs, self.inputs).num_frames


def locate_judge(source: _Source) -> _Source | Path:
    """Return the folder of the embedded judge if ``source`` names it; return any other source unchanged."""
    return _CHECKPOINTS / "judge" if source == EMBEDDED_JUDGE else source


def picture_limit(source: Any, most: int | None) -> dict[str, int]:
    """Return vLLM's limit on images and videos per request.

    Args:
        source: folder or hub id of the judge.
        most: maximum number of images; None uses the judge's own configuration.

    Raises:
        ConfigError: if the limit is below 1.
    """
    most = read_judge_config(source).max_pictures if most is None else most
    if most < 1:
        raise ConfigError(f"max_pictures must be at least 1, got {most}")
    return {"image": most, "video": 0}


def read_judge_config(source: Any) -> JudgeConfig:
    """Read the settings stored in a checkpoint folder; return the defaults if there are none.

    Args:
        source: anything that names a judge: a folder, hub id, server addresses or a backend.

    Raises:
        CheckpointError: if the file is too large or is not a JSON object.
        UnknownNameError: if the file has an unknown setting; the message suggests the nearest name.
        ConfigError: if a value is not valid.
    """
    located = locate_judge(source)
    if isinstance(located, Sequence) and not isinstance(located, str) and len(located) == 1:
        located = locate_judge(located[0])
    path = Path(located).expanduser() / CONFIG_NAME if isinstance(located, str | Path) else None
    if path is None or not path.is_file():
        return JudgeConfig()
    try:
        values = read_json_file(path, max_bytes=_MAX_BYTES)
    except ValueError as error:
        raise CheckpointError(f"{path}: expected a JSON object of at most {_MAX_BYTES} bytes: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: expected a JSON object, got {type(values).__name__}")
    return built_settings(CONFIG_NAME, JudgeConfig, values)
