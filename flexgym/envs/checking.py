"""The arguments of an environment, checked without making it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from inspect import Parameter
from typing import Any

from flexgym.core.arguments import fitted_arguments, setting_parameters
from flexgym.core.errors import ConfigError
from flexgym.environment import environment_creator
from flexgym.envs.groups import GroupAccess
from flexgym.generators.sampling import Sampling


def check_arguments(env: str, settings: Mapping[str, Any], *, given: Collection[str]) -> None:
    """Reject arguments that an environment does not take.

    Args:
        env: its id, see `flexgym.environment.environment_creator`.
        settings: arguments by name.
        given: arguments that follow from other settings.

    Raises:
        UnknownNameError: no such environment or argument; the message names the nearest one.
        ConfigError: an argument of ``given``, or a value that does not fit.
    """
    parameters = _parameters(environment_creator(env))
    for name in settings:
        if name in given:
            raise ConfigError(f"{name} of {env}: expected no value, since other settings determine it")
    fitted_arguments(env, [parameter for parameter in parameters if parameter.name not in given], settings)


def _parameters(creator: Any) -> list[Parameter]:
    """Return what an environment takes by name; those of this package take further arguments as ``**settings``."""
    own = setting_parameters(creator)
    if not (isinstance(creator, type) and issubclass(creator, GroupAccess)):
        return own
    batch = creator.batch_type
    further = [parameter for parameter in setting_parameters(batch) if parameter.name in batch.options]
    optional = [parameter.replace(default=None) for parameter in (*further, *setting_parameters(Sampling))]
    return [*(parameter for parameter in own if parameter.kind is not Parameter.VAR_KEYWORD), *optional]
