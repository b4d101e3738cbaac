"""The rewards as wrappers of vector environments: ``rewards.vector.ShapesVerifier(envs)``."""

from __future__ import annotations

from flexgym.core.errors import UnknownNameError
from rewards import registry
from rewards.wrappers import VectorRewardWrapper

__all__ = ["VectorRewardWrapper"]


def __getattr__(name: str) -> type[VectorRewardWrapper]:
    if not name[:1].isupper():  # in lower case it is a module of this package, or nothing
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return registry.vector_wrapper(name)
    except UnknownNameError as error:
        raise AttributeError(str(error)) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *registry.wrapper_names()})
