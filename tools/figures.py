"""Draw the README's images from run folders: ``python -m tools.figures runs/seed0 runs/seed1 runs/seed2``.

Writes ``docs/images/before_after.png`` from the first run's held-out samples (same prompts, same seeds) and
``docs/images/curve.png`` from the verifier accuracy of all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from flexgym.runs.metrics import read_metrics

matplotlib.use("Agg")
IMAGES = Path("docs/images")


def before_after(run: Path) -> Image.Image:
    """Return the first and the last sample grid of a run, side by side."""
    grids = sorted((run / "samples").glob("iteration_*.png"))
    first, last = (np.asarray(Image.open(path)) for path in (grids[0], grids[-1]))
    gap = np.full((first.shape[0], 24, 3), 255, np.uint8)
    return Image.fromarray(np.concatenate([first, gap, last], axis=1))


def draw_curve(runs: Sequence[Path], target: Path) -> None:
    """Draw verifier accuracy over iterations, one line per run."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.2), dpi=150)
    for run in runs:
        rows = [row for row in read_metrics(run / "metrics.jsonl") if row.get("eval/accuracy") is not None]
        axes.plot([row["iteration"] for row in rows], [row["eval/accuracy"] for row in rows], label=run.name)
    axes.set_xlabel("iteration")
    axes.set_ylabel("held-out accuracy")
    axes.set_ylim(0.0, 1.0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right")
    figure.tight_layout()
    figure.savefig(target)


def main(arguments: Sequence[str]) -> int:
    """Draw both images from the given run folders."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    runs = [Path(argument) for argument in arguments]
    IMAGES.mkdir(parents=True, exist_ok=True)
    before_after(runs[0]).save(IMAGES / "before_after.png", optimize=True)
    draw_curve(runs, IMAGES / "curve.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
