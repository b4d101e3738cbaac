"""TensorBoard: curves, sample grids, videos and tables of a run.

Event files are written here, row by row: torch's SummaryWriter leaves that to a thread, which ends in a traceback when
a disk is full, and opens the file by its name again for every write.
"""

from __future__ import annotations

import contextlib
import html
import itertools
import os
import re
import socket
import time
from collections.abc import Mapping
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_STRING
from tensorboard.plugins.text.metadata import create_summary_metadata
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import histogram

from flexgym.core.files import open_writing, teaching_disk_errors
from flexgym.core.images import Pixels
from flexgym.core.media import encode_gif, encode_png
from flexgym.core.metrics import Histogram, Metric
from flexgym.runs.trackers.base import Cell, Table, TrackedRun, Tracker, numbers

FOLDER = "tensorboard"
"""Name of the folder of event files in a run folder."""
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()#+.!|-])")
_RGB = 3  # Summary.Image.colorspace
_VERSION = "brain.Event:2"
_NUMBERS = itertools.count()  # of the event files of this process
_POSITIVE = [*itertools.accumulate(range(773), lambda edge, _: edge * 1.1, initial=1e-12)]  # as torch's SummaryWriter
_BINS = [*(-edge for edge in reversed(_POSITIVE)), 0.0, *_POSITIVE]


class TensorBoard(Tracker):
    """Writes event files below ``tensorboard`` in the run folder, which TensorBoard reads while the run is in progress.

    Args:
        run: what is tracked. Parts of the curves after its last iteration that counts are hidden.
    """

    def __init__(self, run: TrackedRun) -> None:
        self.folder = run.folder / FOLDER
        with self._teaching_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_NUMBERS)}"
            self._file = open_writing(self.folder / name)
            self._records = RecordWriter(self._file)
            self._event(Event(file_version=_VERSION))
            if run.last is not None:
                self._event(Event(file_version=_VERSION, step=run.last + 1))
                self.rewind(run.last)
            self.flush()

    def metrics(self, row: Mapping[str, Any], iteration: int) -> None:
        """Add every finite number of a row to its curve, and histograms to their distributions."""
        for name, number in numbers(row).items():
            value = row[name]
            described = _metadata(value) if isinstance(value, Metric) else None
            self._write(Summary.Value(tag=name, simple_value=number, metadata=described), iteration)
            if isinstance(value, Histogram):
                self._summary(histogram(f"{name}/distribution", value.elements, _BINS), iteration)
        self.flush()

    def image(self, name: str, image: Pixels, iteration: int) -> None:
        """Add an image as PNG."""
        self._add(name, encode_png(image), shape=image.shape, iteration=iteration)

    def video(self, name: str, frames: Pixels, iteration: int, *, fps: float = 8.0) -> None:
        """Add a video, which shows as an animation in the Images tab."""
        self._add(name, encode_gif(frames, fps=fps), shape=frames.shape[1:], iteration=iteration)

    def table(self, name: str, table: Table, iteration: int) -> None:
        """Add a table, which shows in the Text tab."""
        cells = [table.columns, *table.rows]
        shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in (len(cells), len(table.columns))])
        content = [_cell(cell).encode() for row in cells for cell in row]
        tensor = TensorProto(dtype=DT_STRING, tensor_shape=shape, string_val=content)
        metadata = create_summary_metadata(display_name=name, description="")
        self._write(Summary.Value(tag=name, metadata=metadata, tensor=tensor), iteration)
        self.flush()

    def rewind(self, last: int) -> None:
        """Hide what comes after an iteration."""
        self._event(Event(session_log=SessionLog(status=SessionLog.START), step=last + 1))

    def flush(self) -> None:
        """Write everything that was added to the disk."""
        with self._teaching_errors():
            self._file.flush()

    def close(self) -> None:
        """Close the file; what could not be written has been reported before."""
        with contextlib.suppress(OSError):
            self._file.close()

    def _add(self, name: str, data: bytes, *, shape: tuple[int, ...], iteration: int) -> None:
        image = Summary.Image(height=shape[0], width=shape[1], colorspace=_RGB, encoded_image_string=data)
        self._write(Summary.Value(tag=name, image=image), iteration)

    def _write(self, value: Summary.Value, iteration: int) -> None:
        self._summary(Summary(value=[value]), iteration)

    def _summary(self, summary: Summary, iteration: int) -> None:
        self._event(Event(summary=summary, step=iteration))

    def _event(self, event: Event) -> None:
        event.wall_time = time.time()
        with self._teaching_errors():
            self._records.write(event.SerializeToString())

    def _teaching_errors(self) -> contextlib.AbstractContextManager[None]:
        return teaching_disk_errors(f"curves for TensorBoard cannot be written to {self.folder}")


def _metadata(metric: Metric) -> SummaryMetadata:
    """Return what TensorBoard shows beside a curve: label, unit and kind of the metric."""
    label = f"{metric.label}, " if metric.label else ""
    unit = f" in {metric.unit}" if metric.unit else ""
    return SummaryMetadata(summary_description=f"{label}{type(metric).__name__.lower()}{unit}")


def _cell(cell: Cell) -> str:
    """Return a value of a table as Markdown that shows it as it is."""
    if cell is None or isinstance(cell, int | float):
        return "" if cell is None else f"{cell:.4g}"
    return _MARKDOWN.sub(r"\\\1", html.escape(cell, quote=False))
