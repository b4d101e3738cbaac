"""TensorBoard: curves, sample grids and videos of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from flexgym.core.images import Pixels
from flexgym.core.media import encode_gif, encode_png

_RGB = 3  # Summary.Image.colorspace


class TensorboardLog:
    """Writes event files that TensorBoard reads while the run goes on."""

    def __init__(self, folder: str | Path, *, start_iteration: int = 0) -> None:
        """Open a new event file.

        Args:
            folder: usually ``runs/<name>/tensorboard``.
            start_iteration: where a resumed run goes on from; curves of an earlier try beyond it are hidden.
        """
        purge = start_iteration + 1 if start_iteration else None
        self._writer = SummaryWriter(str(folder), purge_step=purge)

    def scalars(self, metrics: Mapping[str, Any], iteration: int) -> None:
        """Add every finite number of ``metrics`` to its curve; the rest is passed over."""
        for name, value in metrics.items():
            number = value.item() if getattr(value, "shape", None) == () else value
            if name == "iteration" or isinstance(number, bool) or not isinstance(number, (int, float)):
                continue
            if math.isfinite(number):
                self._writer.add_scalar(name, number, iteration)

    def image(self, name: str, image: Pixels, iteration: int) -> None:
        """Add an image, uint8 ``[H, W, 3]``, such as a grid of `flexgym.core.grids.draw_grid`."""
        self._add(name, encode_png(image), shape=image.shape, iteration=iteration)

    def video(self, name: str, frames: Pixels, iteration: int, *, fps: float = 8.0) -> None:
        """Add a video, uint8 ``[F, H, W, 3]``; it shows as an animation in the Images tab."""
        # The record is written here because SummaryWriter.add_video needs moviepy for the same GIF.
        self._add(name, encode_gif(frames, fps=fps), shape=frames.shape[1:], iteration=iteration)

    def flush(self) -> None:
        """Hand all that was added to the disk."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()

    def __enter__(self) -> TensorboardLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _add(self, name: str, data: bytes, *, shape: tuple[int, ...], iteration: int) -> None:
        picture = Summary.Image(height=shape[0], width=shape[1], colorspace=_RGB, encoded_image_string=data)
        self._writer.file_writer.add_summary(Summary(value=[Summary.Value(tag=name, image=picture)]), iteration)
