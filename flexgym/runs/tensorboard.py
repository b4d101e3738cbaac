"""TensorBoard: curves, sample grids and videos of a run.

Event files are written here, row by row: torch's SummaryWriter leaves that to a thread, which ends in a traceback when
a disk is full, and opens the file by its name again for every write.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import histogram

from flexgym.core.files import open_writing, teaching_disk_errors
from flexgym.core.images import Pixels
from flexgym.core.media import encode_gif, encode_png
from flexgym.core.metrics import Histogram, Metric, finite

_RGB = 3  # Summary.Image.colorspace
_VERSION = "brain.Event:2"
_NUMBERS = itertools.count()  # of the event files of this process
_POSITIVE = [*itertools.accumulate(range(773), lambda edge, _: edge * 1.1, initial=1e-12)]  # as torch's SummaryWriter
_BINS = [*(-edge for edge in reversed(_POSITIVE)), 0.0, *_POSITIVE]


class TensorboardLog:
    """Writes event files that TensorBoard reads while the run is in progress."""

    def __init__(self, folder: str | Path, *, start_iteration: int | None = None) -> None:
        """Open a new event file.

        Args:
            folder: usually ``runs/<name>/tensorboard``.
            start_iteration: the last iteration to keep, that of the checkpoint when resuming; later parts of the curves
                are hidden. -1 hides all, None nothing.
        """
        self.folder = Path(folder)
        with self._teaching_errors():
            self.folder.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_NUMBERS)}"
            self._file = open_writing(self.folder / name)
            self._records = RecordWriter(self._file)
            self._event(Event(file_version=_VERSION))
            if start_iteration is not None:
                self._event(Event(file_version=_VERSION, step=start_iteration + 1))
                self._event(Event(session_log=SessionLog(status=SessionLog.START), step=start_iteration + 1))
            self.flush()

    def scalars(self, row: Mapping[str, Any], iteration: int) -> None:
        """Add every finite number of a row to its curve, and histograms to their distributions.

        Args:
            row: metrics, numbers and anything else by name; what is no number is skipped.
            iteration: the place on the curve.
        """
        for name, value in row.items():
            number = None if name == "iteration" else finite(value)
            if number is None:
                continue
            described = _metadata(value) if isinstance(value, Metric) else None
            self._write(Summary.Value(tag=name, simple_value=number, metadata=described), iteration)
            if isinstance(value, Histogram):
                self._summary(histogram(f"{name}/distribution", value.elements, _BINS), iteration)
        self.flush()

    def image(self, name: str, image: Pixels, iteration: int) -> None:
        """Add an image, uint8 ``[H, W, 3]``, such as a grid of `flexgym.core.grids.draw_grid`."""
        self._add(name, encode_png(image), shape=image.shape, iteration=iteration)

    def video(self, name: str, frames: Pixels, iteration: int, *, fps: float = 8.0) -> None:
        """Add a video, uint8 ``[F, H, W, 3]``; it shows as an animation in the Images tab."""
        self._add(name, encode_gif(frames, fps=fps), shape=frames.shape[1:], iteration=iteration)

    def flush(self) -> None:
        """Write everything that was added to the disk."""
        with self._teaching_errors():
            self._file.flush()

    def close(self) -> None:
        """Close the file; what could not be written has been reported before."""
        with contextlib.suppress(OSError):
            self._file.close()

    def __enter__(self) -> TensorboardLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

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
