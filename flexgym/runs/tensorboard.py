"""TensorBoard: curves, sample grids and videos of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from torch.utils.tensorboard import SummaryWriter

from flexgym.core.images import Pixels
from flexgym.core.media import encode_gif, encode_png
from flexgym.core.metrics import Histogram, Metric, finite

_RGB = 3  # Summary.Image.colorspace


class TensorboardLog:
    """Writes event files that TensorBoard reads while the run is in progress."""

    def __init__(self, folder: str | Path, *, start_iteration: int | None = None) -> None:
        """Open a new event file.

        Args:
            folder: usually ``runs/<name>/tensorboard``.
            start_iteration: the last iteration to keep, that of the checkpoint when resuming; later parts of the curves
                are hidden. -1 hides all, None nothing.
        """
        purge = None if start_iteration is None else start_iteration + 1
        self._writer = SummaryWriter(str(folder), purge_step=purge)

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
                self._writer.add_histogram(f"{name}/distribution", value.elements, iteration)

    def image(self, name: str, image: Pixels, iteration: int) -> None:
        """Add an image, uint8 ``[H, W, 3]``, such as a grid of `flexgym.core.grids.draw_grid`."""
        self._add(name, encode_png(image), shape=image.shape, iteration=iteration)

    def video(self, name: str, frames: Pixels, iteration: int, *, fps: float = 8.0) -> None:
        """Add a video, uint8 ``[F, H, W, 3]``; it shows as an animation in the Images tab."""
        # The record is written here because SummaryWriter.add_video needs moviepy for the same GIF.
        self._add(name, encode_gif(frames, fps=fps), shape=frames.shape[1:], iteration=iteration)

    def flush(self) -> None:
        """Write everything that was added to the disk."""
        self._writer.flush()

    def close(self) -> None:
        """Flush pending events and close the file."""
        self._writer.close()

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
        self._writer.file_writer.add_summary(Summary(value=[value]), iteration)


def _metadata(metric: Metric) -> SummaryMetadata:
    """Return what TensorBoard shows beside a curve: label, unit and kind of the metric."""
    label = f"{metric.label}, " if metric.label else ""
    unit = f" in {metric.unit}" if metric.unit else ""
    return SummaryMetadata(summary_description=f"{label}{type(metric).__name__.lower()}{unit}")
