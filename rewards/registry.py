"""Finding rewards by name: every module of this package that is not listed in `_MACHINERY` is one reward.

Names are read from the file listing, so a module and what it imports are loaded only when its reward is asked for.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any

from flexgym.core.errors import ConfigError, unknown_name
from rewards.base import Reward, build, name_key, registered
from rewards.wrappers import RewardWrapper, VectorRewardWrapper, single_twin, vector_twin

_FOLDER = Path(__file__).parent
_MACHINERY = frozenset(
    {
        "base",
        "checkpoints",
        "clip",
        "convert",
        "guard",
        "known",
        "named",
        "pictures",
        "registry",
        "validate",
        "vector",
        "vision",
        "wrappers",
    }
)


def names() -> list[str]:
    """The names of all rewards, sorted; those of this package and those registered elsewhere."""
    return sorted(set(_modules()) | {cls.name for cls in registered().values()})


def make(name: str, **settings: Any) -> Reward:
    """Build a reward by name.

    Args:
        name: one of `names`, the class name, or the path of a class of your own, see `reward_class`.
        **settings: keyword arguments of the reward, and those that every reward takes, see `rewards.base.build`.

    Returns:
        The bare scorer, without an environment around it.

    Raises:
        UnknownNameError: when no reward has the name; the message holds the nearest one.
    """
    return build(reward_class(name), settings)


def reward_class(name: str) -> type[Reward]:
    """The class of a reward by name, imported if need be.

    Args:
        name: one of `names`, the class name, or the path of a class that is a `Reward`: ``"mymodule:MyReward"`` or
            ``"package.mymodule.MyReward"``. The module is imported in every process that scores; agents look for it
            there in the folders in which the process that started training does.

    Raises:
        UnknownNameError: when no reward has the name; the message holds the nearest one.
        ConfigError: when the module cannot be imported, or holds no reward of that name.
    """
    if ":" in str(name) or "." in str(name):
        return _own_class(str(name))
    key = name_key(name)
    if key not in registered():
        module = next((module for module in _modules() if name_key(module) == key), None)
        if module is None:
            raise unknown_name("reward", name, names())
        importlib.import_module(f"{__package__}.{module}")
    if key not in registered():
        raise ConfigError(f"rewards/{module}.py must mark its class with @register({module!r})")
    return registered()[key]


def _own_class(path: str) -> type[Reward]:
    """The class at a path such as ``"package.module:Class"``."""
    module_name, _, class_name = path.partition(":") if ":" in path else path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise ConfigError(
            f"reward {path!r}: the module {module_name!r} cannot be imported ({error}). Expected the path of a class,"
            f" such as 'mymodule:MyReward', or one of {', '.join(names())}"
        ) from error
    found = getattr(module, class_name, None)
    if not (isinstance(found, type) and issubclass(found, Reward)):
        known = [name for name, value in vars(module).items() if _is_reward_of(value, module_name)]
        if found is None and known:
            raise unknown_name(f"reward of {module_name}", class_name, known)
        raise ConfigError(f"reward {path!r}: expected a class derived from rewards.Reward, got {found!r}")
    return found


def _is_reward_of(value: Any, module_name: str) -> bool:
    return isinstance(value, type) and issubclass(value, Reward) and value.__module__ == module_name


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
