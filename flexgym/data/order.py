"""The order in which the rows of a data set are trained on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class EpochOrder:
    """An endless order of rows: every epoch has each of them once, shuffled anew.

    It has no state, so that the rows of an iteration follow from the seed and the number of the iteration alone.

    Args:
        count: number of rows, at least 1.
        seed: of the order.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count, self._seed = count, seed
        self._epoch = -1
        self._shuffled: NDArray[np.int64] = np.empty(0, np.int64)

    def row(self, number: int) -> int:
        """Return the row at a place of the order, counted from 0 over all epochs."""
        epoch, place = divmod(number, self.count)
        if epoch != self._epoch:
            self._shuffled = np.random.default_rng([self._seed, epoch]).permutation(self.count)
            self._epoch = epoch
        return int(self._shuffled[place])
