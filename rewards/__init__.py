"""`flexgym.rewards` under its short name, in a checkout: ``import rewards`` leads to the same objects."""

from __future__ import annotations

import sys
from typing import Any

import flexgym.rewards
from flexgym.rewards import *  # noqa: F403  (the names that type checkers see)
from flexgym.rewards import vector

sys.modules[f"{__name__}.vector"] = vector


def __getattr__(name: str) -> Any:
    return getattr(flexgym.rewards, name)


def __dir__() -> list[str]:
    return dir(flexgym.rewards)
