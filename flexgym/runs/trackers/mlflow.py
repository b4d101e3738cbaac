"""MLflow, on a server or in a file."""

from __future__ import annotations

import logging
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow.entities import Metric

from flexgym.core.images import Pixels
from flexgym.core.media import encode_mp4
from flexgym.runs.trackers.base import Table, TrackedRun, Tracker, numbers

_TAG = "flexgym.run"
_NOT_IN_NAMES = re.compile(r"[^\w\-. :/]")
_AT_ONCE = 1000  # metrics of one request


class MLflow(Tracker):
    """MLflow at ``MLFLOW_TRACKING_URI``; without it in ``mlflow.db`` and ``mlruns`` of the working folder.

    MLflow chooses the ids of its runs. That of a run resumed is found by the tag ``flexgym.run``.

    Args:
        run: what is tracked; resumed under the same id.
        project: name of the experiment.
    """

    def __init__(self, run: TrackedRun, *, project: str = "flexgym") -> None:
        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)
        self._client = mlflow.MlflowClient()
        experiment = self._experiment(project)
        found = self._client.search_runs([experiment], f"tags.`{_TAG}` = '{run.id}'", max_results=1)
        if found:
            self._id = found[0].info.run_id
            self._client.update_run(self._id, status="RUNNING")
        else:
            self._id = self._client.create_run(experiment, run_name=run.name, tags={_TAG: run.id}).info.run_id
        name = "config.yaml" if run.last is None else f"config_from_{run.last:06d}.yaml"
        self._client.log_dict(self._id, dict(run.config), name)

    def _experiment(self, project: str) -> str:
        found = self._client.get_experiment_by_name(project)
        return str(found.experiment_id if found else self._client.create_experiment(project))

    @property
    def address(self) -> str:
        """The store, and the run in it."""
        return f"{self._client.tracking_uri}, run {self._id}"

    def metrics(self, row: Mapping[str, Any], iteration: int) -> None:
        """Add every number to its curve."""
        now = int(1000 * time.time())
        found = [Metric(_NOT_IN_NAMES.sub("_", name), value, now, iteration) for name, value in numbers(row).items()]
        for start in range(0, len(found), _AT_ONCE):
            self._client.log_batch(self._id, metrics=found[start : start + _AT_ONCE])

    def image(self, name: str, image: Pixels, iteration: int) -> None:
        """Add an image as PNG."""
        self._client.log_image(self._id, image, key=_NOT_IN_NAMES.sub("_", name), step=iteration)

    def video(self, name: str, frames: Pixels, iteration: int, *, fps: float = 8.0) -> None:
        """Add a video as an artifact, MP4."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{name.replace('/', '_')}_{iteration:06d}.mp4")
            path.write_bytes(encode_mp4(frames, fps=fps))
            self._client.log_artifact(self._id, str(path), "videos")

    def table(self, name: str, table: Table, iteration: int) -> None:
        """Add a table as an artifact, JSON, which the page of the run shows as a table."""
        path = f"tables/{name.replace('/', '_')}_{iteration:06d}.json"
        rows = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
        self._client.log_table(self._id, {column: [row[column] for row in rows] for column in table.columns}, path)

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._id)
