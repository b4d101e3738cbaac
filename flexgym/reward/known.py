"""Pairs of samples that are known to be good and bad."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flexgym.types import Prompt, SampleGroup


@dataclass(frozen=True, eq=False)
class KnownPair:
    """Two samples of one prompt, the first of which is better.

    Attributes:
        what: the difference in a few words.
        prompt: the prompt that both are scored for.
        good: uint8 ``[H, W, 3]`` or ``[F, H, W, 3]``.
        bad: uint8 of the same shape.
    """

    what: str
    prompt: str
    good: NDArray[np.uint8]
    bad: NDArray[np.uint8]

    @property
    def group(self) -> SampleGroup:
        """Both samples as a group, the good one first."""
        return SampleGroup(Prompt(self.prompt), np.stack([self.good, self.bad]))

    def reversed(self) -> KnownPair:
        """Swap good and bad, for a reward that wants the opposite."""
        return KnownPair(self.what, self.prompt, self.bad, bad=self.good)
