"""Measure the peak memory of hostile media: ``python -m tests.demonstrations.media_memory``.

A row that shows an image of 195 kB and 8192 x 8192 pixels 64 times, and a video of 64 frames of 4096 x 4096 pixels: a
process of its own reads each as stored, and another one reduced to 1,024 pixels. Without bounds per row and per video,
they took 14 to 20 GB and 3.2 GB.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from flexgym.data import Clip, MediaFile, RowError, load_pictures
from flexgym.data.media import AS_STORED
from flexgym.judge.inputs import Inputs
from tests.core.media_samples import video

FORMS = {"as stored": AS_STORED, "1024": Inputs(format="png", max_side=1024)}


def write_media(folder: Path) -> None:
    """Write the image and the video, a flat one each."""
    Image.new("RGB", (8192, 8192), (9, 8, 7)).save(folder / "a.png")
    black = np.broadcast_to(np.zeros((), np.uint8), (64, 4096, 4096, 3))
    (folder / "a.mp4").write_bytes(video(folder, black))


def read(kind: str, folder: Path, form: str) -> str:
    """Load the images of a row and return what came of it, with the peak of the memory that it took."""
    before = peak()
    file = MediaFile(path=str(folder / ("a.png" if kind == "image" else "a.mp4")))
    row = [file] * 64 if kind == "image" else [Clip(video=file, num_frames=64)]
    try:
        outcome = f"{len(load_pictures(row, FORMS[form]))} images"
    except RowError as error:
        outcome = f"rejected: {error}"
    return f"{kind}, {form}: {peak() - before:,} MiB, {outcome}"


def peak() -> int:
    """Return the peak memory of this process in MiB; that of `resource.getrusage` includes what its parent had."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))


def main() -> None:
    """Print a line for each kind of row and each form."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_media(folder)
        for path in sorted(folder.glob("a.*")):
            print(f"{path.name}: {path.stat().st_size:,} bytes")  # noqa: T201
        for kind in ("image", "video"):
            for form in FORMS:
                subprocess.run([sys.executable, "-m", __spec__.name, kind, name, form], check=True)


if __name__ == "__main__":
    if len(sys.argv) == 4:
        print(read(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))  # noqa: T201
    else:
        main()
