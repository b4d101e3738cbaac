"""What a verifier says about held-out prompts, and the picture of it that a run keeps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flexgym.core.grids import GridRow, draw_grid
from flexgym.core.media import save_gif, save_png
from flexgym.runs.tensorboard import TensorboardLog

_GRID_ROWS, _GRID_COLUMNS = 4, 6


@dataclass(frozen=True, eq=False)
class Verification:
    """What a verifier says about held-out prompts.

    Attributes:
        prompts: N of them.
        samples: one for each, uint8 ``[N, ...]``.
        scores: of each, float32 ``[N]``.
        means: of the evaluation rewards over all samples, by name.
        diversity: within groups of samples of one prompt, see `flexgym.runs.diversity`; None where none were made.
    """

    prompts: Sequence[str]
    samples: NDArray[np.uint8]
    scores: NDArray[np.float32]
    means: Mapping[str, float] = field(default_factory=dict)
    diversity: float | None = None

    @property
    def metrics(self) -> dict[str, float]:
        """Share of samples without fault, mean score, diversity, and the means of the evaluation rewards."""
        return {
            **{f"eval/{name}": mean for name, mean in self.means.items()},
            **({} if self.diversity is None else {"eval/diversity": self.diversity}),
            "eval/verifier_accuracy": float(np.mean(self.scores >= 1.0 - 1e-6)),
            "eval/verifier_score": float(np.nanmean(self.scores)),
        }


def save_verification(
    verification: Verification, samples: Path, tensorboard: TensorboardLog | None, *, iteration: int
) -> None:
    """Draw held-out samples with fixed seeds, so that grids of two iterations differ by what was learnt alone.

    Args:
        verification: of which the first samples are drawn.
        samples: folder for the PNG, of videos the GIF.
        tensorboard: which gets the same picture, if any.
        iteration: that the file is named after.
    """
    accuracy = verification.metrics["eval/verifier_accuracy"]
    grid = draw_grid(
        _grid_rows(verification),
        title=f"iteration {iteration}: {accuracy:.1%} of the held-out prompts met",
        columns=_GRID_COLUMNS,
        tile=96,
    )
    name = f"iteration_{iteration:06d}"
    if grid.ndim == 4:
        save_gif(samples / f"{name}.gif", grid)
    else:
        save_png(samples / f"{name}.png", grid)
    if tensorboard is not None:
        (tensorboard.video if grid.ndim == 4 else tensorboard.image)("held_out", grid, iteration)


def _grid_rows(verification: Verification) -> list[GridRow]:
    """The first held-out samples, one tile each under its own caption."""
    count = min(_GRID_ROWS * _GRID_COLUMNS, len(verification.prompts))
    return [
        GridRow(
            caption=verification.prompts[index],
            samples=verification.samples[index : index + 1],
            marks=(bool(verification.scores[index] >= 1.0 - 1e-6),),
        )
        for index in range(count)
    ]
