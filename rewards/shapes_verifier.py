"""Reward by the rule-based verifier of the small world."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from flexgym.reward import PointwiseReward
from flexgym.shapes.captions import parse_caption
from flexgym.shapes.reading import Reading, read_groups, read_samples
from flexgym.shapes.verifier import check
from flexgym.types import GroupScores, Prompt, SampleGroup


class ShapesVerifier(PointwiseReward):
    """Share of the caption's constraints that a sample satisfies, 0 to 1, read from its pixels.

    Captions from outside the small world cannot be checked: their samples are failures.
    """

    def score(self, groups: Sequence[SampleGroup]) -> list[GroupScores]:
        """Score every group; samples of the same size are read in one batch over all groups."""
        readings = read_groups([group.samples for group in groups])
        return [
            # A group that cannot be read raises the error when it is scored on its own.
            self.score_group(
                group,
                partial(self.score_samples, group.prompt, group.samples)
                if found is None
                else partial(_shares, group.prompt, found),
            )
            for group, found in zip(groups, readings, strict=True)
        ]

    def score_samples(self, prompt: Prompt, samples: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the share of constraints that each sample satisfies.

        Args:
            prompt: a caption of the small world.
            samples: uint8 ``[n, H, W, 3]`` or ``[n, F, H, W, 3]``.

        Returns:
            float32 ``[n]`` in ``[0, 1]``.

        Raises:
            ValueError: if the caption is not from the small world, or the samples have the wrong kind; `score` counts
                this as failures.
        """
        return _shares(prompt, read_samples(samples))


def _shares(prompt: Prompt, readings: Sequence[Reading]) -> NDArray[np.float32]:
    spec = parse_caption(prompt.text)
    return np.array([check(spec, reading).score for reading in readings], dtype=np.float32)
