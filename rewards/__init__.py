"""Rewards of image and video groups.

``rewards.ShapesVerifier(env)`` wraps an environment, ``rewards.vector.ShapesVerifier(envs)`` a vector environment, and
``rewards.make("shapes_verifier")`` builds the bare scorer that trainers use. `names` lists them all.
"""

from __future__ import annotations

from flexgym.core.errors import UnknownNameError
from rewards import registry, vector
from rewards.base import JudgeReward, PointwiseReward, Reward, register
from rewards.registry import make, names
from rewards.wrappers import RewardWrapper, VectorRewardWrapper

__all__ = [
    "JudgeReward",
    "PointwiseReward",
    "Reward",
    "RewardWrapper",
    "VectorRewardWrapper",
    "make",
    "names",
    "register",
    "vector",
]


def __getattr__(name: str) -> type[RewardWrapper]:
    if not name[:1].isupper():  # in lower case it is a module of this package, or nothing
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return registry.single_wrapper(name)
    except UnknownNameError as error:
        raise AttributeError(str(error)) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *registry.wrapper_names()})
