"""Trackio, on this machine, on a server or in a Hugging Face Space."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trackio

from flexgym.core.images import Pixels
from flexgym.core.media import encode_mp4
from flexgym.runs.trackers.base import Table, TrackedRun, Tracker, numbers


class Trackio(Tracker):
    """Trackio; its own variables, such as ``TRACKIO_SERVER_URL`` and ``TRACKIO_DIR``, count as well.

    Trackio knows a run by its name, which therefore ends in the id.

    Args:
        run: what is tracked; resumed under the same id.
        project: name of the project.
        space: Hugging Face Space that shows it; None for this machine, or for what the variables say.
    """

    def __init__(self, run: TrackedRun, *, project: str = "flexgym", space: str | None = None) -> None:
        self._project = project
        self._run = trackio.init(
            project=project,
            name=f"{run.name}-{run.id}",
            space_id=space,
            config=dict(run.config),
            resume="allow",
            embed=False,
        )

    @property
    def address(self) -> str:
        """The page of the run; on this machine, the command that shows it."""
        return self._run.url or f"to see it: trackio show --project {self._project}"

    def metrics(self, row: Mapping[str, Any], iteration: int) -> None:
        """Add every number to its curve."""
        self._run.log(numbers(row), step=iteration)

    def image(self, name: str, image: Pixels, iteration: int) -> None:
        """Add an image as PNG."""
        self._run.log({name: trackio.Image(image)}, step=iteration)

    def video(self, name: str, frames: Pixels, iteration: int, *, fps: float = 8.0) -> None:
        """Add a video as MP4."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "video.mp4")
            path.write_bytes(encode_mp4(frames, fps=fps))
            self._run.log({name: trackio.Video(path)}, step=iteration)

    def table(self, name: str, table: Table, iteration: int) -> None:
        """Add a table of text and numbers."""
        rows = [list(row) for row in table.rows]
        self._run.log({name: trackio.Table(columns=list(table.columns), data=rows)}, step=iteration)

    def close(self) -> None:
        """Finish the run and send what is left."""
        self._run.finish()
