"""Read thousands of damaged images and videos: ``python -m tests.demonstrations.damaged_media [COUNT]``.

Each is a small file of some format with a few bytes changed, or cut short. It must be read, or rejected with the error
of the reader; anything else is counted as raw.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np

from flexgym.core.images import ImageReader
from flexgym.core.videos import VideoReader
from tests.core.media_samples import damaged, image_files, video_files


class RejectedError(Exception):
    """Raised by the readers below."""


IMAGES = ImageReader(error=lambda _, message: RejectedError(message))
VIDEOS = VideoReader(error=lambda _, message: RejectedError(message), max_pixels=2**20)


def outcomes(reads: Callable[[bytes], object], files: dict[str, bytes], *, count: int) -> Iterator[tuple[str, str]]:
    """Yield the format of a damaged file and its outcome: ``read``, ``rejected``, or the name of a raw exception."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        for name, data in files.items():
            try:
                reads(damaged(data, rng))
            except RejectedError:
                yield name, "rejected"
            except Exception as error:  # noqa: BLE001  (whatever else is raised is what is counted here)
                yield name, f"raw {type(error).__name__}"
            else:
                yield name, "read"


def read_image(data: bytes) -> None:
    """Check, measure and load an image."""
    IMAGES.check(data)
    IMAGES.size(data)
    IMAGES.load(data)


def read_video(data: bytes) -> None:
    """Load three frames of a video."""
    VIDEOS.load(data, choose=lambda count: np.arange(min(count, 3)))


def main(count: int) -> Counter[tuple[str, str]]:
    """Count the outcomes of ``count`` files of each format of images, and a tenth of it of videos."""
    with tempfile.TemporaryDirectory() as folder:
        videos = video_files(folder)
    found = Counter(outcomes(read_image, image_files(), count=count))
    return found + Counter(outcomes(read_video, videos, count=max(1, count // 10)))


if __name__ == "__main__":
    for (name, outcome), number in sorted(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000).items()):
        print(f"{name:12} {outcome:24} {number:6}")  # noqa: T201
