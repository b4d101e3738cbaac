"""Result of an evaluation: figures before and after training, the record of them, and where two verifiers disagree."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexgym.core.files import open_inside, open_writing
from flexgym.core.grids import GridRow, draw_grid
from flexgym.core.json_text import parse_json
from flexgym.core.media import save_gif, save_png
from flexgym.runs.verification import Verification
from flexgym.shapes.accuracy import Accuracy, prompt_accuracy

RECORD = "evaluations.jsonl"
"""File of a run folder with a row for each evaluation."""
DRAWN = "evaluations"
"""Folder of a run folder with the samples on which the verifiers disagree."""
_MAX_BYTES = 16 * 2**20
_MOST_DRAWN, _COLUMNS = 24, 6


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Samples of the same prompts and first latents before and after training, verified twice.

    Attributes:
        split: of the prompts.
        seed: of the prompts and of the first latents.
        iteration: finished iterations of the checkpoint.
        date: when it was computed, ISO 8601 in UTC.
        before: of the generator as it was before training.
        after: of the checkpoint.
        kl: KL of noisy sampling paths to those before training, in nats per dimension, see
            `flexgym.algorithm.divergence.path_kl`; None where it was not measured.
    """

    split: str
    seed: int
    iteration: int
    date: str
    before: Verification
    after: Verification
    kl: float | None = None

    @property
    def prompts(self) -> Sequence[str]:
        """The prompts, each once."""
        return self.after.prompts

    @cached_property
    def gain(self) -> Accuracy:
        """Change of the accuracy, with the interval of paired samples."""
        return _change(self.prompts, self.before.satisfied, self.after.satisfied)

    @cached_property
    def audited_gain(self) -> Accuracy:
        """Change of the accuracy by the independent verifier, with the interval of paired samples."""
        return _change(self.prompts, audited_of(self.before), audited_of(self.after))

    @property
    def agreement(self) -> float:
        """Share of all samples, before and after, on which both verifiers agree."""
        return float(np.mean([found.satisfied == audited_of(found) for found in (self.before, self.after)]))

    def row(self) -> dict[str, Any]:
        """Return the record of the evaluation as plain values."""
        return {
            "split": self.split,
            "seed": self.seed,
            "num_prompts": len(self.prompts),
            "compositions": self.after.accuracy.compositions,
            "iteration": self.iteration,
            "date": self.date,
            "before": _figures(self.before),
            "after": {**_figures(self.after), "kl": self.kl},
            "gain": {**_interval(self.gain), "audit": self.audited_gain.value},
            "agreement": self.agreement,
        }


def audited_of(found: Verification) -> NDArray[np.bool_]:
    """Return whether each sample satisfies its caption by the independent verifier, bool ``[N]``."""
    assert found.audited is not None, "the prompts of an evaluation are captions"
    return found.audited


def _change(prompts: Sequence[str], before: NDArray[np.bool_], after: NDArray[np.bool_]) -> Accuracy:
    return prompt_accuracy(prompts, after.astype(np.float64) - before)


def _interval(found: Accuracy) -> dict[str, float]:
    return {"accuracy": found.value, "low": found.low, "high": found.high}


def _figures(found: Verification) -> dict[str, Any]:
    return {
        **_interval(found.accuracy),
        "audit": found.audit and found.audit.value,
        "by_category": dict(found.accuracy.by_category),
        "diversity": found.diversity,
    }


def append_row(run: Path, evaluation: Evaluation) -> list[dict[str, Any]]:
    """Add the record of an evaluation to a run.

    Args:
        run: the run folder.
        evaluation: the newest one.

    Returns:
        The rows of earlier evaluations on the same split.
    """
    earlier = [row for row in read_rows(run) if row.get("split") == evaluation.split]
    with open_writing(run / RECORD, append=True) as file:
        file.write(json.dumps(evaluation.row(), allow_nan=False).encode() + b"\n")
    return earlier


def read_rows(run: Path) -> list[dict[str, Any]]:
    """Return the records of all evaluations of a run, in order; none where it was never evaluated."""
    try:
        with open_inside(run, RECORD) as file:
            lines = file.read(_MAX_BYTES).splitlines()
    except FileNotFoundError:
        return []
    return [parse_json(line) for line in lines if line.strip()]


def draw_disagreements(run: Path, evaluation: Evaluation) -> Path | None:
    """Draw the samples on which the two verifiers disagree, the first ones of many, with both verdicts.

    Args:
        run: the run folder.
        evaluation: whose samples are drawn; a file of an equal evaluation is replaced.

    Returns:
        The PNG, or the GIF of videos; None if there is no such sample.
    """
    rows = [*_disagreements(evaluation.before, "before"), *_disagreements(evaluation.after, "after")]
    if not rows:
        return None
    title = f"{len(rows)} of {2 * len(evaluation.prompts)} samples on which the verifiers disagree"
    grid = draw_grid(rows[:_MOST_DRAWN], title=title, columns=_COLUMNS, tile=96)
    name = f"{evaluation.split}_{len(evaluation.prompts)}_seed{evaluation.seed}_iteration_{evaluation.iteration:06d}"
    save, ending = (save_gif, "gif") if grid.ndim == 4 else (save_png, "png")
    return save(run / DRAWN / f"{name}.{ending}", grid)


def _disagreements(found: Verification, when: str) -> Iterator[GridRow]:
    for index in np.flatnonzero(found.satisfied != audited_of(found)).tolist():
        verdict = "yes, audit no" if found.satisfied[index] else "no, audit yes"
        yield GridRow(found.prompts[index], found.samples[index : index + 1], labels=(f"{when}: {verdict}",))
