"""Finding rewards by name: every module of this package that is not listed in `_MACHINERY` is one reward.

Names are read from the file listing, so a module and what it imports are loaded only when its reward is asked for.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any

from flexgym.errors import ConfigError, unknown_name
from rewards.base import Reward, name_key, registered
from rewards.wrappers import RewardWrapper, VectorRewardWrapper, single_twin, vector_twin

_FOLDER = Path(__file__).parent
_MACHINERY = frozenset({"base", "registry", "vector", "vision", "wrappers"})


def names() -> list[str]:
    """The names of all rewards, sorted; those of this package and those registered elsewhere."""
    return sorted(set(_modules()) | {cls.name for cls in registered().values()})


def make(name: str, **settings: Any) -> Reward:
    """Build a reward by name.

    Args:
        name: one of `names`, or the class name.
        **settings: keyword arguments of the reward.

    Returns:
        The bare scorer, without an environment around it.

    Raises:
        UnknownNameError: when no reward has the name; the message holds the nearest one.
    """
    return reward_class(name)(**settings)


def reward_class(name: str) -> type[Reward]:
    """The class of a reward by name, imported if need be.

    Raises:
        UnknownNameError: when no reward has the name.
        ConfigError: when the module of that name registers no reward of the same name.
    """
    key = name_key(name)
    if key not in registered():
        module = next((module for module in _modules() if name_key(module) == key), None)
        if module is None:
            raise unknown_name("reward", name, names())
        importlib.import_module(f"{__package__}.{module}")
    if key not in registered():
        raise ConfigError(f"rewards/{module}.py must mark its class with @register({module!r})")
    return registered()[key]


@cache
def _twins(cls: type[Reward]) -> tuple[type[RewardWrapper], type[VectorRewardWrapper]]:
    return single_twin(cls), vector_twin(cls)


def single_wrapper(name: str) -> type[RewardWrapper]:
    """The `gymnasium.Wrapper` of a reward; the same class at every call."""
    return _twins(reward_class(name))[0]


def vector_wrapper(name: str) -> type[VectorRewardWrapper]:
    """The `gymnasium.vector.VectorWrapper` of a reward; the same class at every call."""
    return _twins(reward_class(name))[1]


def wrapper_names() -> list[str]:
    """Class names of the wrappers, for ``dir``; imports nothing that is not imported yet."""
    return sorted(cls.__name__ for cls in registered().values())


def _modules() -> list[str]:
    return [module.name for module in pkgutil.iter_modules([str(_FOLDER)]) if module.name not in _MACHINERY]
