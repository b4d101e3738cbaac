"""One wrapper class for each reward, for single and for vector environments."""

from __future__ import annotations

import copyreg
import inspect
import operator
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from inspect import Parameter, Signature
from typing import Any, Self

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector import VectorEnv

from flexgym.core.arguments import setting_parameters
from flexgym.core.errors import ConfigError
from flexgym.reward import Reward, RewardWrapper, VectorRewardWrapper
from flexgym.reward.building import SHARED_SETTINGS, build, settings_of
from flexgym.rewards.registry import is_shipped, reward_class


class WrapperType(type):
    """Class of the wrapper classes, which knows their reward; pickle finds a wrapper class again through it.

    Attributes:
        reward_class: the reward that the wrapper class puts on environments.
    """

    reward_class: type[Reward]


class NamedWrapper(RewardWrapper, metaclass=WrapperType):
    """Base of the wrapper classes of single environments: ``Wrapper(env, **settings of the reward)``."""

    def __init__(self, env: gym.Env[Any, Any], **settings: Any) -> None:
        self._wrap(env, build(type(self).reward_class, settings), settings)

    @classmethod
    def around(cls, env: gym.Env[Any, Any], reward: Reward) -> Self:
        """Put a reward that is already built on an environment."""
        wrapper = cls.__new__(cls)
        wrapper._wrap(env, reward, settings_of(reward))
        return wrapper

    def _wrap(self, env: gym.Env[Any, Any], reward: Reward, settings: dict[str, Any] | None) -> None:
        # Recorded first, so that the environment's spec holds plain settings instead of the reward.
        recorded = {"reward": reward} if settings is None else {"reward": reference(type(reward)), **settings}
        RecordConstructorArgs.__init__(self, _disable_deepcopy=True, **recorded)
        RewardWrapper.__init__(self, env, reward)

    @property
    def spec(self) -> EnvSpec | None:  # type: ignore[override]
        """Specification of the wrapped environment, from which `gymnasium.make` rebuilds it through `rewards.wrap`."""
        spec = super().spec
        if spec is not None:
            *inner, own = spec.additional_wrappers
            spec.additional_wrappers = (*inner, replace(own, entry_point="flexgym.rewards:wrap"))
        return spec


class NamedVectorWrapper(VectorRewardWrapper, metaclass=WrapperType):
    """Base of the wrapper classes of vector environments: ``Wrapper(envs, **settings of the reward)``."""

    def __init__(self, env: VectorEnv[Any, Any, Any], **settings: Any) -> None:
        super().__init__(env, build(type(self).reward_class, settings))

    @classmethod
    def around(cls, env: VectorEnv[Any, Any, Any], reward: Reward) -> Self:
        """Put a reward that is already built on a vector environment."""
        wrapper = cls.__new__(cls)
        VectorRewardWrapper.__init__(wrapper, env, reward)
        return wrapper


def wrapper_of(reward: str | type[Reward]) -> type[NamedWrapper]:
    """Return the `gymnasium.Wrapper` class of a reward; the same class at every call."""
    return _wrapper_class(NamedWrapper, reward_class(reward))


def vector_wrapper_of(reward: str | type[Reward]) -> type[NamedVectorWrapper]:
    """Return the `gymnasium.vector.VectorWrapper` class of a reward; the same class at every call."""
    return _wrapper_class(NamedVectorWrapper, reward_class(reward))


def wrap(env: gym.Env[Any, Any], reward: str | Reward | type[Reward], **settings: Any) -> NamedWrapper:
    """Put a reward on an environment.

    Args:
        env: an environment whose last info holds ``samples`` and ``prompt``.
        reward: name of a reward, the path of a class of your own (``"mymodule:MyReward"``), a class, or a reward that
            is already built. It is closed together with the environment.
        **settings: keyword arguments of the reward, and ``deadline_s`` and ``failed_samples``.

    Raises:
        UnknownNameError: for an unknown reward or setting; the message names the nearest one.
        ConfigError: for a setting that cannot work, or settings of a reward that is already built.
    """
    if isinstance(reward, Reward):
        return wrapper_of(type(reward)).around(env, _built(reward, settings))
    return wrapper_of(reward)(env, **settings)


def wrap_vector(
    envs: VectorEnv[Any, Any, Any], reward: str | Reward | type[Reward], **settings: Any
) -> NamedVectorWrapper:
    """Put a reward on a vector environment.

    Args:
        envs: a vector of environments whose last infos hold ``samples`` and ``prompt``.
        reward: as for `wrap`.
        **settings: as for `wrap`.

    Raises:
        UnknownNameError: for an unknown reward or setting; the message names the nearest one.
        ConfigError: for a setting that cannot work, or settings of a reward that is already built.
    """
    if isinstance(reward, Reward):
        return vector_wrapper_of(type(reward)).around(envs, _built(reward, settings))
    return vector_wrapper_of(reward)(envs, **settings)


def _built(reward: Reward, settings: dict[str, Any]) -> Reward:
    if settings:
        raise ConfigError(
            f"settings {sorted(settings)} of {reward.name}: the reward is already built; pass its class or its name"
        )
    return reward


def reference(cls: type[Reward]) -> str | type[Reward]:
    """Return the text that names a reward class in a specification; the class itself if no import can find it."""
    if is_shipped(cls):
        return cls.__name__
    try:
        found = operator.attrgetter(cls.__qualname__)(sys.modules[cls.__module__])
    except (AttributeError, KeyError):
        return cls
    return f"{cls.__module__}:{cls.__qualname__}" if found is cls else cls


@cache
def _wrapper_class(base: Any, cls: type[Reward]) -> Any:
    """Make the wrapper class of a reward.

    It has the name of the reward class, and the module where a user finds it: ``flexgym.rewards`` (or
    ``flexgym.rewards.vector``) for a reward of that package, else the module of the reward.
    """
    single = base is NamedWrapper
    module = cls.__module__ if not is_shipped(cls) else "flexgym.rewards" if single else "flexgym.rewards.vector"
    body = {
        "__init__": _with_signature(base.__init__, cls),
        "__module__": module,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "reward_class": cls,
    }
    return WrapperType(cls.__name__, (base,), body)


def _with_signature(init: Callable[..., None], cls: type[Reward]) -> Callable[..., None]:
    """Return a constructor that `inspect.signature` sees with the settings of the reward."""

    def __init__(self: Any, env: Any, **settings: Any) -> None:
        init(self, env, **settings)

    settings = [*setting_parameters(cls, bounds=False), *SHARED_SETTINGS]
    for parameter in settings:
        if parameter.name in ("env", "reward"):
            raise ConfigError(f"{cls.__name__}: a setting of a reward cannot be called {parameter.name!r}; rename it")
    settings.sort(key=lambda parameter: parameter.kind is Parameter.VAR_KEYWORD)
    first = list(inspect.signature(init, eval_str=True).parameters.values())[:2]
    __init__.__signature__ = Signature([*first, *settings])  # type: ignore[attr-defined]
    return __init__


def _reduce(cls: WrapperType) -> str | tuple[Any, ...]:
    """Return the reduced form of a wrapper class: its base and its reward class, which can be imported."""
    return (_wrapper_class, (cls.__base__, cls.reward_class)) if "reward_class" in vars(cls) else cls.__qualname__


copyreg.pickle(WrapperType, _reduce)
