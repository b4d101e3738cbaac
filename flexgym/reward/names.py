"""Short names for rewards that are defined outside of the package `rewards`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from flexgym.core.errors import ConfigError
from flexgym.reward.base import Reward

_CLASSES: dict[str, type[Reward]] = {}
RewardClass = TypeVar("RewardClass", bound=type[Reward])


def register(name: str) -> Callable[[RewardClass], RewardClass]:
    """Make a reward class known by name, as a class decorator.

    A reward that is not registered can be used by its path, ``"mymodule:MyReward"``.

    Args:
        name: the class name in lower case with underscores: ``clip_score`` for ``CLIPScore``.

    Raises:
        ConfigError: if name and class name do not agree, or another class has the name.
    """

    def decorate(cls: RewardClass) -> RewardClass:
        key = name_key(name)
        if key != name_key(cls.__name__):
            raise ConfigError(f"reward {name!r} must be a class of the same name in capitals, got {cls.__name__!r}")
        known = _CLASSES.get(key)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(f"reward name {name!r} is taken by {known.__module__}.{known.__qualname__}")
        cls.name = name
        _CLASSES[key] = cls
        return cls

    return decorate


def registered() -> dict[str, type[Reward]]:
    """Return the registered classes by `name_key`."""
    return dict(_CLASSES)


def name_key(name: Any) -> str:
    """Return the form in which ``"clip_score"`` and ``"CLIPScore"`` are equal."""
    return str(name).replace("_", "").lower()
