"""Which rows make up which batch: shuffled, of similar length, the same for any number of learners, and resumable."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexgym.core.errors import ConfigError

_BATCHES_PER_POOL = 32
"""Rows are sorted by length within pools of so many batches: batches waste little padding and stay random."""


@dataclass(frozen=True)
class Position:
    """A place in the stream.

    Attributes:
        epoch: passes that are complete.
        batch: batches of the current pass that were taken.
    """

    epoch: int = 0
    batch: int = 0


class BatchStream:
    """Endless batches of row numbers.

    Every pass is shuffled anew from the seed. Rows that do not fill a last batch are left out of that pass.

    Args:
        lengths: of the rows, in any unit.
        batch_size: rows of one optimiser step over all learners.
        seed: of the order.

    Raises:
        ConfigError: fewer rows than one batch needs.
    """

    def __init__(self, lengths: Sequence[int] | NDArray[np.int64], *, batch_size: int, seed: int) -> None:
        self.lengths = np.asarray(lengths)
        if len(self.lengths) < batch_size:
            raise ConfigError(
                f"one optimiser step takes training.batch_size={batch_size} rows, but there are {len(self.lengths)}"
            )
        self.batch_size, self.seed = batch_size, seed
        self.position = Position()
        self._pass: tuple[int, list[NDArray[np.int64]]] | None = None

    @property
    def batches_per_epoch(self) -> int:
        """Batches of one pass."""
        return len(self.lengths) // self.batch_size

    def take(self) -> NDArray[np.int64]:
        """The rows of the next batch, ``[batch_size]``."""
        place = self.position
        rows = self._batches(place.epoch)[place.batch]
        last = place.batch + 1 == self.batches_per_epoch
        self.position = Position(place.epoch + 1, 0) if last else Position(place.epoch, place.batch + 1)
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
