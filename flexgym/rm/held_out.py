"""TRL's loss and metrics on held-out rows, in evaluation mode and without any effect on training."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from flexgym.rm.rows import TrainingRows
from flexgym.rm.stage import Trainer

MicroBatch = dict[str, Any]
Weigh = Callable[[str, MicroBatch], Tensor]

PREFIX = "eval/"
"""Prefix of the names of the metrics."""
_DRAW = 0  # seed of the choice of rows, so that runs with other seeds are evaluated on the same ones
_COUNTERS = frozenset({"num_tokens"})  # counts training tokens, not these rows


@dataclass(frozen=True, eq=False)
class Forward:
    """Rows of one forward pass.

    Attributes:
        rows: numbers of the rows, int64 ``[N]`` with N up to ``micro_batch_size``.
        counts: True if this learner's result enters the sums.
    """

    rows: NDArray[np.int64]
    counts: bool


@dataclass(frozen=True)
class Share:
    """Share of a learner in the held-out rows.

    Attributes:
        rank: rank of the learner, from 0.
        learners: number of learners.
        micro_batch_size: rows of one forward pass.
    """

    rank: int
    learners: int
    micro_batch_size: int

    def forwards(self, rows: NDArray[np.int64]) -> list[Forward]:
        """Return the forward passes of this learner; all learners have as many, with as many rows.

        TRL gathers its metrics over the learners in every forward pass. The rows that remain after the last full pass
        of all learners are therefore computed by each of them, and counted by the first.

        Args:
            rows: numbers of the rows of all learners, int64 ``[N]``.
        """
        size, together = self.micro_batch_size, self.micro_batch_size * self.learners
        whole = len(rows) - len(rows) % together
        starts = range(self.rank * size, whole, together)
        own = [Forward(rows[start : start + size], counts=True) for start in starts]
        shared = [Forward(rows[start : start + size], counts=not self.rank) for start in range(whole, len(rows), size)]
        return own + shared


def chosen_rows(rows: TrainingRows, max_rows: int | None) -> NDArray[np.int64]:
    """Return the numbers of the rows to evaluate, sorted by length; the same in every run.

    Args:
        rows: all held-out rows.
        max_rows: number of rows to draw; None takes all.

    Returns:
        Numbers of rows, int64 ``[N]``.
    """
    drawn = np.random.default_rng(_DRAW).permutation(len(rows))[:max_rows]
    return drawn[np.argsort(rows.lengths[drawn], kind="stable")]


def evaluate(trainer: Trainer, batches: Iterable[tuple[MicroBatch, bool]], *, weigh: Weigh) -> dict[str, float]:
    """Compute TRL's loss and metrics as means over all rows or tokens, for any number of learners and micro-batches.

    Every learner must call this, with the same number of batches.

    Args:
        trainer: TRL's trainer.
        batches: collated batches, each with True if it enters the means.
        weigh: returns the number of rows or tokens of a batch that a metric is the mean over.

    Returns:
        The metrics by name, which begins with `PREFIX`.
    """
    sums: defaultdict[str, float] = defaultdict(float)
    weights: defaultdict[str, float] = defaultdict(float)
    with _evaluating(trainer.model):
        for batch, counts in batches:
            # TRL changes the mapping that it is given.
            loss = float(trainer.compute_loss(trainer.model, dict(batch)))
            for name, value in {"loss": loss, **_pop_logged(trainer)}.items():
                weight = float(weigh(name, batch)) * counts
                sums[name] += value * weight
                weights[name] += weight
    parts = torch.tensor([[sums[name], weights[name]] for name in sums], dtype=torch.float64)
    totals = trainer.accelerator.reduce(parts.to(trainer.accelerator.device), reduction="sum").tolist()
    return {f"{PREFIX}{name}": total / weight for name, (total, weight) in zip(sums, totals, strict=True)}


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch off dropout, gradient checkpointing and gradients; restore the mode of every module afterwards."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


def _pop_logged(trainer: Trainer) -> dict[str, float]:
    """Return the metrics that TRL logged for the last batch, and clear them."""
    logged = {name: values[-1] for name, values in trainer._metrics["eval"].items() if name not in _COUNTERS}
    trainer._metrics["eval"].clear()
    return logged
