"""Stream of training batches: shuffled, grouped by length, independent of the number of learners, and resumable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexgym.core.errors import ConfigError

_BATCHES_PER_POOL = 32
"""Batches per pool. Rows are sorted by length within a pool, which limits padding but keeps batches random."""


@dataclass(frozen=True)
class Position:
    """Position in the stream.

    Attributes:
        epoch: number of completed passes over the data.
        batch: number of batches taken in the current pass.
    """

    epoch: int = 0
    batch: int = 0


class BatchStream:
    """Endless stream of batches of row indices.

    Every pass is shuffled with its own seed. Rows that do not fill the last batch are dropped from that pass.

    Args:
        lengths: length of each row, in any unit.
        batch_size: number of rows per optimizer step, over all learners.
        seed: seed of the order.

    Raises:
        ConfigError: if there are fewer rows than ``batch_size``.
    """

    def __init__(self, lengths: Sequence[int] | NDArray[np.int64], *, batch_size: int, seed: int) -> None:
        self.lengths = np.asarray(lengths)
        if len(self.lengths) < batch_size:
            raise ConfigError(
                f"an optimizer step needs training.batch_size={batch_size} rows, but there are only {len(self.lengths)}"
            )
        self.batch_size, self.seed = batch_size, seed
        self.position = Position()
        self._pass: tuple[int, list[NDArray[np.int64]]] | None = None

    @property
    def batches_per_epoch(self) -> int:
        """Return the number of batches per pass."""
        return len(self.lengths) // self.batch_size

    def take(self) -> NDArray[np.int64]:
        """Return the row indices of the next batch, int64 ``[batch_size]``, and advance the position."""
        now = self.position
        rows = self._batches(now.epoch)[now.batch]
        last = now.batch + 1 == self.batches_per_epoch
        self.position = Position(now.epoch + 1, 0) if last else Position(now.epoch, now.batch + 1)
        return rows

    def _batches(self, epoch: int) -> list[NDArray[np.int64]]:
        if self._pass is None or self._pass[0] != epoch:
            self._pass = epoch, self._shuffled(np.random.default_rng([self.seed, epoch]))
        return self._pass[1]

    def _shuffled(self, rng: np.random.Generator) -> list[NDArray[np.int64]]:
        kept = rng.permutation(len(self.lengths))[: self.batches_per_epoch * self.batch_size]
        pool = self.batch_size * _BATCHES_PER_POOL
        batches: list[NDArray[np.int64]] = []
        for start in range(0, len(kept), pool):
            rows = kept[start : start + pool]
            by_length = rows[np.argsort(self.lengths[rows], kind="stable")]
            batches += np.split(by_length, len(by_length) // self.batch_size)
        return [batches[index] for index in rng.permutation(len(batches))]
