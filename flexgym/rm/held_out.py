"""The loss on rows that are never trained on: TRL's figures in eval mode, and nothing of the training moves."""

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

MicroBatch = dict[str, Any]
Weigh = Callable[[str, MicroBatch], Tensor]

PREFIX = "eval/"
"""How the names of the figures begin."""
_DRAW = 0  # the seed of the choice of rows, so that runs with other seeds are measured on the same ones
_COUNTERS = frozenset({"num_tokens"})  # of the training, not of these rows


@dataclass(frozen=True, eq=False)
class Forward:
    """Rows that go through the model at once.

    Attributes:
        rows: their numbers, int64 ``[at most micro_batch_size]``.
        counts: whether this learner's result enters the sums.
    """

    rows: NDArray[np.int64]
    counts: bool


@dataclass(frozen=True)
class Share:
    """Which part of the rows is a learner's.

    Attributes:
        rank: of the learner.
        learners: how many there are.
        micro_batch_size: rows of one forward.
    """

    rank: int
    learners: int
    micro_batch_size: int

    def forwards(self, rows: NDArray[np.int64]) -> list[Forward]:
        """The forwards of this learner; all learners make equally many, with equally many rows.

        TRL gathers its figures over the learners in every forward. What is left when no learner can be given a full
        forward more is therefore computed by all of them, and counted by the first.

        Args:
            rows: of all learners, int64 ``[N]``.
        """
        size, together = self.micro_batch_size, self.micro_batch_size * self.learners
        whole = len(rows) - len(rows) % together
        starts = range(self.rank * size, whole, together)
        own = [Forward(rows[start : start + size], counts=True) for start in starts]
        rest = [Forward(rows[start : start + size], counts=not self.rank) for start in range(whole, len(rows), size)]
        return own + rest


def chosen_rows(rows: TrainingRows, max_rows: int | None) -> NDArray[np.int64]:
    """The rows that are looked at, of similar length side by side; the same ones in every run.

    Args:
        rows: all there are.
        max_rows: so many of them, drawn once; None takes all.
    """
    drawn = np.random.default_rng(_DRAW).permutation(len(rows))[:max_rows]
    return drawn[np.argsort(rows.lengths[drawn], kind="stable")]


def evaluate(trainer: Any, batches: Iterable[tuple[MicroBatch, bool]], *, weigh: Weigh) -> dict[str, float]:
    """TRL's loss and what it logs, as means over all rows or tokens, whatever the learners and micro-batches.

    Every learner must call it, with as many batches as the others.

    Args:
        trainer: TRL's.
        batches: collated, each with whether it counts.
        weigh: over how many rows or tokens of a batch a figure is the mean.

    Returns:
        The figures by name, which begins with `PREFIX`.
    """
    sums: defaultdict[str, float] = defaultdict(float)
    weights: defaultdict[str, float] = defaultdict(float)
    with _evaluating(trainer.model):
        for batch, counts in batches:
            # TRL writes into what it is given.
            loss = float(trainer.compute_loss(trainer.model, dict(batch)))
            for name, value in {"loss": loss, **_taken(trainer)}.items():
                weight = float(weigh(name, batch)) * counts
                sums[name] += value * weight
                weights[name] += weight
    parts = torch.tensor([[sums[name], weights[name]] for name in sums], dtype=torch.float64)
    totals = trainer.accelerator.reduce(parts.to(trainer.accelerator.device), reduction="sum").tolist()
    return {f"{PREFIX}{name}": total / weight for name, (total, weight) in zip(sums, totals, strict=True)}


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """No dropout, no checkpointing and no gradients; afterwards every part is in the mode that it was in."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


def _taken(trainer: Any) -> dict[str, float]:
    """What TRL has just logged; it is taken away, so that the next batch begins anew."""
    logged = {name: values[-1] for name, values in trainer._metrics["eval"].items() if name not in _COUNTERS}
    trainer._metrics["eval"].clear()
    return logged
