"""The one interface of all trackers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flexgym.core.images import Pixels
from flexgym.core.metrics import finite

Cell = str | int | float | None
"""Value in a table; None for an empty cell."""


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers under named columns.

    Attributes:
        columns: their names.
        rows: the cells, one per column. Text comes from captions and replies of models: a tracker must show it as text.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True)
class TrackedRun:
    """Identity of a run for its trackers.

    Attributes:
        id: 16 hexadecimal digits that stay with the run, also when it is resumed or was killed.
        name: name of the run folder.
        folder: the run folder.
        config: effective settings by section.
        last: the last iteration that still counts, that of the checkpoint when a run is resumed; None for a new run.
    """

    id: str
    name: str
    folder: Path
    config: Mapping[str, Any]
    last: int | None = None


class Tracker(ABC):
    """Takes the metrics, images, videos and tables of a run.

    The constructor of a subclass takes the `TrackedRun`, and its settings as keyword arguments. It connects: a run of
    the same id is continued. Every method may raise and may take its time, since a `BackgroundTracker` calls it.
    """

    @property
    def address(self) -> str:
        """Where a person finds the run, or how to send it there; empty where there is nothing to say."""
        return ""

    @abstractmethod
    def metrics(self, row: Mapping[str, Any], iteration: int) -> None:
        """Add every finite number of a row.

        Args:
            row: metrics, numbers and anything else by name; what is no number is skipped.
            iteration: the place on the curves.
        """

    @abstractmethod
    def image(self, name: str, image: Pixels, iteration: int) -> None:
        """Add an image, uint8 ``[H, W, 3]``, such as a grid of `flexgym.core.grids.draw_grid`."""

    @abstractmethod
    def video(self, name: str, frames: Pixels, iteration: int, *, fps: float = 8.0) -> None:
        """Add a video, uint8 ``[F, H, W, 3]``."""

    @abstractmethod
    def table(self, name: str, table: Table, iteration: int) -> None:
        """Add a table of text and numbers."""

    def rewind(self, last: int) -> None:  # noqa: B027 (nothing to do for most)
        """Prepare for iterations that are trained again, those after ``last``; -1 for all of them."""

    def close(self) -> None:  # noqa: B027 (nothing to do for some)
        """Finish the run and wait until everything has arrived."""


def numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """Return the finite numbers of a row by name, but for the number of the iteration."""
    found = {name: finite(value) for name, value in row.items() if name != "iteration"}
    return {name: value for name, value in found.items() if value is not None}
