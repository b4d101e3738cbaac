"""Rewards of image and video groups.

``rewards.ShapesVerifier(env)`` wraps an environment, ``rewards.vector.ShapesVerifier(envs)`` a vector environment, and
``rewards.make("ShapesVerifier")`` builds the reward alone, as trainers use it. `names` lists all rewards. `wrap` puts
any reward on an environment, also one of your own.

The wrapper classes are made when they are first used; ``__init__.pyi`` holds their signatures for type checkers.
"""

from __future__ import annotations

from flexgym.core.errors import UnknownNameError
from flexgym.reward import JudgeReward, PointwiseReward, Reward, RewardWrapper, VectorRewardWrapper, register
from flexgym.rewards import vector
from flexgym.rewards.registry import check, make, names
from flexgym.rewards.wrappers import NamedWrapper, wrap, wrapper_of

__all__ = [
    "JudgeReward",
    "PointwiseReward",
    "Reward",
    "RewardWrapper",
    "VectorRewardWrapper",
    "check",
    "make",
    "names",
    "register",
    "vector",
    "wrap",
]


def __getattr__(name: str) -> type[NamedWrapper]:
    if not name[:1].isupper():  # wrapper classes begin with a capital letter
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return wrapper_of(name)
    except UnknownNameError as error:
        raise AttributeError(str(error)) from error


def __dir__() -> list[str]:
    return sorted({*__all__, *names()})
