"""The rewards as wrappers of vector environments: ``rewards.vector.ShapesVerifier(envs)``."""

from __future__ import annotations

from flexgym.core.errors import UnknownNameError
from flexgym.reward import VectorRewardWrapper
from flexgym.rewards.registry import names
from flexgym.rewards.wrappers import NamedVectorWrapper, vector_wrapper_of
from flexgym.rewards.wrappers import wrap_vector as wrap

__all__ = ["VectorRewardWrapper", "wrap"]


def __getattr__(name: str) -> type[NamedVectorWrapper]:
    if not name[:1].isupper():  # wrapper classes begin with a capital letter
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return vector_wrapper_of(name)
    except UnknownNameError as error:
        raise AttributeError(str(error)) from error


def __dir__() -> list[str]:
    return sorted({*__all__, *names()})
