"""The arguments of an environment, checked without making it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator

import flexgym  # noqa: F401  (registers the environments)
from envs.groups import GroupAccess
from flexgym.core.errors import ConfigError, unknown_name
from flexgym.core.problems import Problem
from flexgym.core.signatures import Parameter, argument_problems, read_signature
from flexgym.generators.sampling import Sampling


def environment_spec(env: str) -> EnvSpec:
    """Return the specification of a registered environment.

    Args:
        env: its id, such as ``"FlexT2I-v0"``; ``"package.module:Id-v0"`` imports the module that registers it first.

    Raises:
        UnknownNameError: no such environment; the message names the nearest one.
        ConfigError: the module cannot be imported.
    """
    module, _, name = env.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        return gymnasium.spec(name)
    except ImportError as error:
        raise ConfigError(f"environment {env!r}: the module {module!r} cannot be imported ({error})") from error
    except gymnasium.error.Error as error:
        known = [spec.id for spec in gymnasium.registry.values() if spec.entry_point and not _is_gymnasium(spec)]
        raise unknown_name("environment", name, known) from error


def environment_problems(env: str, settings: Mapping[str, Any], *, given: Collection[str]) -> Iterator[Problem]:
    """Yield what is wrong with the arguments of an environment.

    Args:
        env: its id, see `environment_spec`.
        settings: arguments by name.
        given: arguments that follow from other settings.

    Raises:
        UnknownNameError: no such environment.
        ConfigError: the module cannot be imported.
    """
    creator = _creator(env)
    yield from argument_problems(creator, settings, given=given, further=_further(creator))


def _creator(env: str) -> Any:
    """Return the class or function that makes a vector environment, or a single one where there is no other."""
    spec = environment_spec(env)
    entry = spec.vector_entry_point or spec.entry_point
    return load_env_creator(entry) if isinstance(entry, str) else entry


def _further(creator: Callable[..., Any]) -> dict[str, Parameter] | None:
    """Return the arguments that the environments of this package take as ``**settings``; None for any others."""
    if not (isinstance(creator, type) and issubclass(creator, GroupAccess)):
        return None
    batch = read_signature(creator.batch_type).parameters
    sampling = read_signature(Sampling).parameters
    named = {name: batch[name] for name in creator.batch_type.options} | dict(sampling)
    return {name: Parameter(parameter.annotation, required=False) for name, parameter in named.items()}


def _is_gymnasium(spec: EnvSpec) -> bool:
    """Return whether an environment comes with Gymnasium itself, which generates nothing."""
    entry = spec.entry_point
    return (entry if isinstance(entry, str) else str(entry.__module__)).startswith(("gymnasium.", "shimmy."))
