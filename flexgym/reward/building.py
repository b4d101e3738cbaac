"""Rewards from their settings: validate them without building anything, build, and read them back."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Parameter
from pathlib import Path
from typing import Any, TypeVar

from flexgym.core.arguments import fitted_arguments, recorded_arguments, setting_parameters
from flexgym.core.errors import ConfigError
from flexgym.core.typed import Positive, fitted
from flexgym.reward.base import Reward
from flexgym.reward.guard import FailedSamples

SHARED_SETTINGS = (
    Parameter("deadline_s", Parameter.KEYWORD_ONLY, default=None, annotation=float | None),
    Parameter("own_process", Parameter.KEYWORD_ONLY, default=None, annotation=bool | None),
    Parameter("failed_samples", Parameter.KEYWORD_ONLY, default=None, annotation=str | Path | None),
)
"""Settings that every reward takes besides its own, see `build`."""

_SHARED = frozenset(parameter.name for parameter in SHARED_SETTINGS)
_Reward = TypeVar("_Reward", bound=Reward)


def check(cls: type[Reward], settings: Mapping[str, Any]) -> None:
    """Validate the settings of a reward without building it: names, types where annotated, and its own rules.

    Args:
        cls: the reward's class.
        settings: as for `build`.

    Raises:
        UnknownNameError: for a setting that the reward does not have; the message names the nearest one.
        ConfigError: for a value that cannot work, or a missing setting.
    """
    _checked(cls, settings)


def _checked(cls: type[Reward], settings: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the reward's own settings and those that every reward takes."""
    if not isinstance(settings, Mapping):
        raise ConfigError(f"settings of {cls.name}: expected settings by name, got {settings!r}")
    own = {name: value for name, value in settings.items() if name not in _SHARED}
    own = fitted_arguments(cls.name, setting_parameters(cls), own, also=sorted(_SHARED))
    shared = {name: value for name, value in settings.items() if name in _SHARED}
    shared = fitted_arguments(cls.name, SHARED_SETTINGS, shared)
    fitted(f"deadline_s of {cls.name}", Positive | None, shared.get("deadline_s"))
    cls.check_settings(own)
    return own, shared


def build(cls: type[_Reward], settings: Mapping[str, Any]) -> _Reward:
    """Build a reward from its settings.

    Args:
        cls: the reward's class.
        settings: its keyword arguments, and for every reward ``deadline_s`` and ``own_process``, see `Reward`, and
            ``failed_samples``, a folder that samples without a score are written to.

    Raises:
        UnknownNameError: for a setting that the reward does not have; the message names the nearest one.
        ConfigError: for a value that cannot work, or a missing setting.
    """
    own, shared = _checked(cls, settings)
    reward = cls(**own)
    if shared.get("deadline_s") is not None:
        reward.deadline_s = float(shared["deadline_s"])
    if shared.get("own_process") is not None:
        reward.own_process = shared["own_process"]
    if shared.get("failed_samples") is not None:
        reward.keep_failed(FailedSamples(shared["failed_samples"]))
    return reward


def settings_of(reward: Reward) -> dict[str, Any] | None:
    """Return the settings that `build` makes an equal reward from; None where the constructor's are not known."""
    settings = recorded_arguments(reward)
    if settings is None:
        return None
    if reward.deadline_s != type(reward).deadline_s:
        settings["deadline_s"] = reward.deadline_s
    if reward.own_process != type(reward).own_process:
        settings["own_process"] = reward.own_process
    failed: FailedSamples | None = vars(reward).get("failed")  # made on first use
    if failed is not None and failed.folder is not None:
        settings["failed_samples"] = str(failed.folder)
    return settings
