"""Results of a verifier on held-out prompts, as metrics and as a drawn grid of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexgym.core.grids import GridRow, draw_grid
from flexgym.core.media import save_gif, save_png
from flexgym.core.metrics import Mean, Metric
from flexgym.runs.known_metrics import ACCURACY, outside_metrics
from flexgym.runs.trackers import Tracker

VERIFIER_ACCURACY = "eval/verifier_accuracy"
_GRID_ROWS, _GRID_COLUMNS = 4, 6


@dataclass(frozen=True, eq=False)
class Verification:
    """Scores of a verifier for samples of held-out prompts.

    Attributes:
        prompts: N of them.
        samples: one for each, uint8 ``[N, ...]``.
        scores: of each, float32 ``[N]``.
        means: of the evaluation rewards over all samples, by name.
        diversity: within groups of samples of one prompt, see `flexgym.runs.diversity`; None where none were made.
        categories: of the N prompts; empty where they have none.
    """

    prompts: Sequence[str]
    samples: NDArray[np.uint8]
    scores: NDArray[np.float32]
    means: Mapping[str, float] = field(default_factory=dict)
    diversity: float | None = None
    categories: Sequence[str] = ()

    @property
    def accuracy(self) -> float:
        """Share of the samples in which the verifier finds no fault."""
        return float(np.mean(self.scores >= 1.0 - 1e-6))

    @property
    def metrics(self) -> dict[str, Metric]:
        """Share of samples without fault, mean score, diversity, and the means of the evaluation rewards."""
        means = outside_metrics("eval", self.means)
        if self.diversity is not None:
            means["eval/diversity"] = self.diversity
        recorded: dict[str, Metric] = {name: _recorded(mean) for name, mean in means.items()}
        recorded[VERIFIER_ACCURACY] = ACCURACY.with_value(self.accuracy)
        recorded["eval/verifier_score"] = _recorded(float(np.nanmean(self.scores)))
        return recorded


def save_verification(verification: Verification, samples: Path, tracker: Tracker | None, *, iteration: int) -> None:
    """Draw held-out samples with fixed seeds, so that grids of two iterations differ only by training.

    Args:
        verification: its first samples are drawn.
        samples: folder for the PNG, or the GIF of videos.
        tracker: gets the grid as well, if there is one.
        iteration: number in the name of the file.
    """
    grid = draw_grid(
        _grid_rows(verification),
        title=f"iteration {iteration}: held-out accuracy {verification.accuracy:.1%}",
        columns=_GRID_COLUMNS,
        tile=96,
    )
    name = f"iteration_{iteration:06d}"
    if grid.ndim == 4:
        save_gif(samples / f"{name}.gif", grid)
    else:
        save_png(samples / f"{name}.png", grid)
    if tracker is not None:
        (tracker.video if grid.ndim == 4 else tracker.image)("held_out", grid, iteration)


def verified_change(rows: Sequence[Mapping[str, Any]], wording: str) -> list[str]:
    """Compare the first verification of a run with its last one.

    Args:
        rows: of ``metrics.jsonl``.
        wording: the sentence, in which ``{first}``, ``{last}`` and ``{iteration}`` are filled in.

    Returns:
        The sentence; nothing where there are fewer than two verifications.
    """
    measured = [row for row in rows if row.get(VERIFIER_ACCURACY) is not None]
    if len(measured) < 2:
        return []
    first, last = (f"{row[VERIFIER_ACCURACY]:.3f}" for row in (measured[0], measured[-1]))
    return [wording.format(first=first, last=last, iteration=measured[-1]["iteration"])]


def _recorded(value: float) -> Mean:
    return Mean(value, panel="hidden", sparse=True)


def _grid_rows(verification: Verification) -> list[GridRow]:
    """Return the first held-out samples, one tile each under its own caption."""
    count = min(_GRID_ROWS * _GRID_COLUMNS, len(verification.prompts))
    return [
        GridRow(
            caption=verification.prompts[index],
            samples=verification.samples[index : index + 1],
            marks=(bool(verification.scores[index] >= 1.0 - 1e-6),),
        )
        for index in range(count)
    ]
