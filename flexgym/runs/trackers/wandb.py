"""Weights & Biases, in the cloud, on a server or in files to be sent later."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import wandb

from flexgym.core.errors import ConfigError
from flexgym.core.images import Pixels
from flexgym.core.media import encode_mp4
from flexgym.core.metrics import Histogram
from flexgym.runs.trackers.base import Table, TrackedRun, Tracker, numbers

_CONNECTING_S = 30
_FINISHING_S = 55


class WeightsAndBiases(Tracker):
    """Weights & Biases; its own variables, such as ``WANDB_MODE=offline`` and ``WANDB_API_KEY``, count as well.

    Curves are drawn over the iteration, so the values of a resumed run cover those that they replace.

    Args:
        run: what is tracked; resumed under the same id.
        project: name of the project; None for ``WANDB_PROJECT``, or else ``flexgym``.
        entity: user or team; None for the default of the account.
        tags: of the run.
    """

    def __init__(
        self, run: TrackedRun, *, project: str | None = None, entity: str | None = None, tags: tuple[str, ...] = ()
    ) -> None:
        settings = wandb.Settings(console="off", silent=True, init_timeout=_CONNECTING_S, finish_timeout=_FINISHING_S)
        known = wandb.setup().settings
        if known.mode in ("online", "shared") and not wandb.login(prompt=False):
            raise ConfigError("no key for Weights & Biases: run `wandb login`, or set WANDB_MODE=offline")
        self._run = wandb.init(
            id=run.id,
            name=run.name,
            project=project or known.project or "flexgym",
            entity=entity,
            tags=list(tags) or None,
            config=dict(run.config),
            resume="allow",
            reinit="create_new",
            settings=settings,
        )
        self._run.define_metric("iteration", hidden=True)
        self._run.define_metric("*", step_metric="iteration")

    @property
    def address(self) -> str:
        """The page of the run; offline, the command that sends it."""
        return f"offline; to send it: wandb sync {self._run.settings.sync_dir}" if self._run.offline else self._run.url

    def metrics(self, row: Mapping[str, Any], iteration: int) -> None:
        """Add numbers, and the distributions of histograms."""
        found: dict[str, Any] = {**numbers(row)}
        for name, value in row.items():
            if isinstance(value, Histogram) and name in found:
                found[f"{name}/distribution"] = wandb.Histogram(value.elements.tolist())
        self._log(found, iteration)

    def image(self, name: str, image: Pixels, iteration: int) -> None:
        """Add an image as PNG."""
        self._log({name: wandb.Image(image)}, iteration)

    def video(self, name: str, frames: Pixels, iteration: int, *, fps: float = 8.0) -> None:
        """Add a video as MP4."""
        self._log({name: wandb.Video(io.BytesIO(encode_mp4(frames, fps=fps)), format="mp4")}, iteration)

    def table(self, name: str, table: Table, iteration: int) -> None:
        """Add a table of text and numbers."""
        rows = [list(row) for row in table.rows]
        self._log({name: wandb.Table(columns=list(table.columns), data=rows, allow_mixed_types=True)}, iteration)

    def close(self) -> None:
        """Finish the run and send what is left."""
        self._run.finish()

    def _log(self, values: Mapping[str, Any], iteration: int) -> None:
        self._run.log({**values, "iteration": iteration})
