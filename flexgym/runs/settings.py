"""Section ``run`` of a recipe: where a run writes and when it ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flexgym.core.options import built_settings, check_count


@dataclass(frozen=True)
class RunSettings:
    """Section ``run`` of a recipe.

    Attributes:
        name: of the folder.
        root: folder of the run folders.
        iterations: how many there are in all.
        minutes: wall time after which the run ends, whatever the iterations; None is no limit.
        checkpoint_interval: iterations between two checkpoints.
        keep: number of newest checkpoints that are kept.

    Raises:
        ConfigError: for a count that is no whole number of at least 1.
    """

    name: str = "run"
    root: str = "runs"
    iterations: int = 100
    minutes: float | None = None
    checkpoint_interval: int = 20
    keep: int = 3

    def __post_init__(self) -> None:
        for name in ("iterations", "checkpoint_interval", "keep"):
            check_count(f"run.{name}", getattr(self, name))

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> RunSettings:
        """Parse the section of a recipe.

        Raises:
            UnknownNameError: for an unknown key, with the nearest valid one.
            ConfigError: for a value that cannot work.
        """
        return built_settings("section 'run'", cls, values)
