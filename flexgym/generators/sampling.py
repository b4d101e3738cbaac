"""Sampling settings of a generator, and their defaults from the pipeline and the checkpoint."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from flexgym.core.errors import CheckpointError, ConfigError, unknown_name
from flexgym.core.json_text import MAX_CONFIG_BYTES, read_json_file
from flexgym.core.options import check_count

CONFIG_NAME = "generation_config.json"
Sampler = Literal["rollout", "pipeline"]
"""Which steps make a sample: the Euler steps of rollouts, or those of the pipeline's own solver."""


@dataclass(frozen=True)
class Sampling:
    """Settings of sampling.

    Attributes:
        num_steps: denoising steps T.
        guidance_scale: weight of classifier-free guidance; at most 1 means one forward without the unconditional
            branch, as in diffusers. Of distilled models (FLUX.1) it is an input of the transformer.
        height: of a sample, in pixels.
        width: of a sample, in pixels.
        num_frames: frames of a video; None for images.
        max_sequence_length: text tokens, for pipelines that take this number; None for the others.
        true_cfg_scale: weight of classifier-free guidance where ``guidance_scale`` is an input of the transformer; None
            for the others.
        guidance_scale_2: weight of guidance of the second transformer, the one for low noise (Wan 2.2); None for that
            of the first.
        negative_prompt: text of the unconditional branch; None for the empty one.

    Raises:
        ConfigError: when a value cannot work.
    """

    num_steps: int
    guidance_scale: float
    height: int
    width: int
    num_frames: int | None = None
    max_sequence_length: int | None = None
    true_cfg_scale: float | None = None
    guidance_scale_2: float | None = None
    negative_prompt: str | None = None

    def __post_init__(self) -> None:
        for name in ("num_steps", "height", "width"):
            check_count(name, getattr(self, name))
        for name in ("num_frames", "max_sequence_length"):
            if getattr(self, name) is not None:
                check_count(name, getattr(self, name))
        _check_scale("guidance_scale", self.guidance_scale)
        for name in ("true_cfg_scale", "guidance_scale_2"):
            if getattr(self, name) is not None:
                _check_scale(name, getattr(self, name))
        if self.negative_prompt is not None:
            _check_text("negative_prompt", self.negative_prompt)


SETTINGS = tuple(setting.name for setting in fields(Sampling))
_CALL_NAMES = {"num_steps": "num_inference_steps"}


def _check_scale(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ConfigError(f"{name} must be a finite number of at least 0, got {value!r}")


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be a text, got {value!r}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{name} must be a text that UTF-8 can encode, got {value!r}") from error


def check_settings(settings: Mapping[str, Any], source: str) -> None:
    """Reject names that are not sampling settings.

    Args:
        settings: by name.
        source: what they are called in the message.

    Raises:
        UnknownNameError: for the first unknown name, with the nearest valid one.
    """
    for name in settings:
        if name not in SETTINGS:
            raise unknown_name(source, name, SETTINGS)


def argument_defaults(function: Any) -> dict[str, Any]:
    """Return the default values of a function's arguments, by name; arguments without one are left out."""
    parameters = inspect.signature(function).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


def call_defaults(parameters: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Select the settings among the default arguments of a pipeline's ``__call__``.

    Args:
        parameters: default values by argument name.
        names: what the family's ``__call__`` calls a setting, where it has another name for it.

    Returns:
        Values by the names of `Sampling`, without those that have no default and without texts.
    """
    called = {name: at for name, at in _called(names).items() if name != "negative_prompt"}
    return {name: parameters[at] for name, at in called.items() if parameters.get(at) is not None}


def call_arguments(settings: Sampling, names: Mapping[str, str]) -> dict[str, Any]:
    """Return settings as arguments of a pipeline's ``__call__``; names as in `call_defaults`."""
    called = _called(names)
    return {called[name]: value for name, value in vars(settings).items() if name in called and value is not None}


def _called(names: Mapping[str, str]) -> dict[str, str]:
    """Return the argument name of each setting; an argument is never that of two settings."""
    renamed = {**_CALL_NAMES, **names}
    return {name: renamed.get(name, name) for name in SETTINGS if name in renamed or name not in renamed.values()}


def read_generation_config(folder: Path) -> dict[str, Any]:
    """Read the sampling defaults of a checkpoint folder.

    Args:
        folder: of the checkpoint.

    Returns:
        The settings in its ``generation_config.json``; empty without that file.

    Raises:
        CheckpointError: when the file is no JSON object.
        UnknownNameError: when it holds an unknown setting.
    """
    path = folder / CONFIG_NAME
    if not path.is_file():
        return {}
    try:
        settings = read_json_file(path, max_bytes=MAX_CONFIG_BYTES)
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); write it again or remove it") from error
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path} must hold a JSON object such as {{'num_steps': 10}}, got {settings!r}")
    check_settings(settings, f"setting in {path}")
    return settings


def resolve_sampling(*layers: Mapping[str, Any]) -> Sampling:
    """Resolve the settings: a later layer overrides an earlier one, and None leaves a setting unchanged.

    Args:
        layers: settings by name, such as the pipeline's defaults, the checkpoint's and the user's.

    Raises:
        UnknownNameError: for an unknown setting, with the nearest valid one.
        ConfigError: when a value cannot work, or a needed one is missing from every layer.
    """
    settled: dict[str, Any] = {}
    for layer in layers:
        check_settings(layer, "sampling setting")
        settled.update({name: value for name, value in layer.items() if value is not None})
    missing = [name for name in ("num_steps", "guidance_scale", "height", "width") if name not in settled]
    if missing:
        raise ConfigError(f"the pipeline has no default for {', '.join(missing)}: pass it, or put it in {CONFIG_NAME}")
    return Sampling(**settled)
