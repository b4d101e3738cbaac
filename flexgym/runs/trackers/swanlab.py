"""SwanLab, in the cloud or in files to be sent later."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import swanlab
from PIL import Image

from flexgym.core.images import Pixels
from flexgym.core.media import encode_gif
from flexgym.runs.trackers.base import Cell, Table, TrackedRun, Tracker, numbers

_CODE_MARK = "--x_x--"
"""Mark of script code in the charts that SwanLab draws; text must not hold it."""


class SwanLab(Tracker):
    """SwanLab; its own variables, such as ``SWANLAB_MODE=offline`` and ``SWANLAB_API_KEY``, count as well.

    Args:
        run: what is tracked; resumed under the same id.
        project: name of the project.
        workspace: user or organization; None for the default of the account.
        tags: of the run.
    """

    def __init__(
        self, run: TrackedRun, *, project: str = "flexgym", workspace: str | None = None, tags: tuple[str, ...] = ()
    ) -> None:
        swanlab.merge_settings({"interactive": False, "terminal": {"proxy_type": "none"}})
        self._run = swanlab.init(
            project=project,
            workspace=workspace,
            name=run.name,
            id=run.id,
            resume="allow",
            config=dict(run.config),
            tags=list(tags) or None,
        )

    @property
    def address(self) -> str:
        """The page of the run; without one, the command that sends it."""
        if self._run.mode == "online":
            return self._run.url
        return f"{self._run.mode}; to send it: swanlab sync {self._run.dir}"

    def metrics(self, row: Mapping[str, Any], iteration: int) -> None:
        """Add every number to its curve."""
        self._run.log(numbers(row), step=iteration)

    def image(self, name: str, image: Pixels, iteration: int) -> None:
        """Add an image as PNG."""
        self._run.log({name: swanlab.Image(Image.fromarray(image))}, step=iteration)

    def video(self, name: str, frames: Pixels, iteration: int, *, fps: float = 8.0) -> None:
        """Add a video as GIF, the one format that SwanLab takes."""
        self._run.log({name: swanlab.Video(encode_gif(frames, fps=fps))}, step=iteration)

    def table(self, name: str, table: Table, iteration: int) -> None:
        """Add a table as a chart."""
        chart = swanlab.echarts.Table()
        chart.add(list(table.columns), [[_plain(cell) for cell in row] for row in table.rows])
        self._run.log({name: chart}, step=iteration)

    def close(self) -> None:
        """Finish the run and send what is left."""
        self._run.finish()


def _plain(cell: Cell) -> Cell:
    return cell.replace(_CODE_MARK, "--x x--") if isinstance(cell, str) else cell
