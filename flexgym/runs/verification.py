"""Results of a verifier on held-out prompts, as metrics and as a drawn grid of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexgym.audit import audit
from flexgym.core.grids import GridRow, draw_grid
from flexgym.core.media import save_gif, save_png
from flexgym.core.metrics import Mean, Metric
from flexgym.runs.known_metrics import ACCURACY, AUDIT, INTERVAL, outside_metrics
from flexgym.runs.trackers import Tracker
from flexgym.shapes.accuracy import Accuracy, are_captions, prompt_accuracy

EVAL_ACCURACY = "eval/accuracy"
"""Metric of held-out accuracy; its interval and the shares of categories have longer names that begin with it."""
EVAL_AUDIT = "eval/audit"
"""Metric of held-out accuracy by the independent verifier."""
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
        audited: whether each satisfies its prompt by the independent verifier, bool ``[N]``; None where it does not
            apply, see `audited`.
    """

    prompts: Sequence[str]
    samples: NDArray[np.uint8]
    scores: NDArray[np.float32]
    means: Mapping[str, float] = field(default_factory=dict)
    diversity: float | None = None
    categories: Sequence[str] = ()
    audited: NDArray[np.bool_] | None = None

    @property
    def satisfied(self) -> NDArray[np.bool_]:
        """Return whether the verifier finds no fault in each sample, bool ``[N]``."""
        found: NDArray[np.bool_] = self.scores >= 1.0 - 1e-6
        return found

    @cached_property
    def accuracy(self) -> Accuracy:
        """Share of the samples without fault, balanced over the categories of the small world, with its interval."""
        return prompt_accuracy(self.prompts, self.satisfied)

    @cached_property
    def audit(self) -> Accuracy | None:
        """The same share by the independent verifier; None where it does not apply."""
        return None if self.audited is None else prompt_accuracy(self.prompts, self.audited)

    @property
    def metrics(self) -> dict[str, Metric]:
        """Accuracy with interval, categories and audit, mean score, diversity, and means of the evaluation rewards."""
        means = outside_metrics("eval", self.means)
        if self.diversity is not None:
            means["eval/diversity"] = self.diversity
        found = self.accuracy
        means |= {f"{EVAL_ACCURACY}/{name}": share for name, share in found.by_category.items()}
        means["eval/verifier_score"] = float(np.nanmean(self.scores))
        recorded: dict[str, Metric] = {name: Mean(mean, panel="hidden", sparse=True) for name, mean in means.items()}
        recorded[EVAL_ACCURACY] = ACCURACY.with_value(found.value)
        for name, end in (("low", found.low), ("high", found.high)):
            recorded[f"{EVAL_ACCURACY}_{name}"] = INTERVAL[name].with_value(end)
        if self.audit is not None:
            recorded[EVAL_AUDIT] = AUDIT.with_value(self.audit.value)
        return recorded


def audited(prompts: Sequence[str], samples: NDArray[np.uint8]) -> NDArray[np.bool_] | None:
    """Check samples by the independent verifier of the small world.

    Args:
        prompts: N texts.
        samples: one for each, uint8 ``[N, H, W, 3]`` or ``[N, F, H, W, 3]``.

    Returns:
        Whether each satisfies its prompt, bool ``[N]``; None unless all prompts are captions of the small world.
    """
    if not are_captions(prompts):
        return None
    return np.array([_audits(*pair) for pair in zip(prompts, samples, strict=True)])


def _audits(prompt: str, sample: NDArray[np.uint8]) -> bool:
    try:
        return audit(prompt, sample).satisfied
    except ValueError:  # a caption of a motion for an image, or the reverse
        return False


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
        title=f"iteration {iteration}: held-out accuracy {verification.accuracy}",
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
        The sentence, and one about the independent verifier where it was used; nothing where there are fewer than two
        verifications.
    """
    measured = [row for row in rows if row.get(EVAL_ACCURACY) is not None]
    if len(measured) < 2:
        return []
    first, last = measured[0], measured[-1]
    lines = [wording.format(first=_with_interval(first), last=_with_interval(last), iteration=last["iteration"])]
    if None not in (first.get(EVAL_AUDIT), last.get(EVAL_AUDIT)):
        lines.append(f"By the independent verifier: {first[EVAL_AUDIT]:.3f} and {last[EVAL_AUDIT]:.3f}.")
    return lines


def _with_interval(row: Mapping[str, Any]) -> str:
    ends = [row.get(f"{EVAL_ACCURACY}_{name}") for name in ("low", "high")]
    interval = "" if None in ends else f" ({ends[0]:.3f} to {ends[1]:.3f})"
    return f"{row[EVAL_ACCURACY]:.3f}{interval}"


def _grid_rows(verification: Verification) -> list[GridRow]:
    """Return the first held-out samples, one tile each under its own caption."""
    count = min(_GRID_ROWS * _GRID_COLUMNS, len(verification.prompts))
    return [
        GridRow(
            caption=verification.prompts[index],
            samples=verification.samples[index : index + 1],
            marks=(bool(verification.satisfied[index]),),
        )
        for index in range(count)
    ]
