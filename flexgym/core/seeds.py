"""Seeds: whole numbers of Python or NumPy, of at least 0."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator, Field

from flexgym.core.errors import ConfigError

Seed = Annotated[
    int, BeforeValidator(lambda value: int(value) if isinstance(value, np.integer) else value), Field(ge=0)
]
"""A seed among settings."""


def checked_seed(seed: Any, name: str = "seed") -> int | None:
    """Return a seed as an ``int`` of Python, or None for None; see `whole_seed`."""
    return None if seed is None else whole_seed(seed, name)


def whole_seed(seed: Any, name: str = "seed") -> int:
    """Return a seed as an ``int`` of Python.

    Args:
        seed: whole number of Python or NumPy, of at least 0.
        name: name of the seed in messages.

    Raises:
        ConfigError: the seed is of another type, such as bool, or negative.
    """
    if isinstance(seed, bool | np.bool_) or not isinstance(seed, int | np.integer):
        raise ConfigError(f"{name} must be a whole number of at least 0, got {seed!r} of type {type(seed).__name__}")
    if seed < 0:
        raise ConfigError(f"{name} must be a whole number of at least 0, got {int(seed)}")
    return int(seed)
