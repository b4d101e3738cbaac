"""The rule-based verifier of the small world as a reward."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from flexgym.reward import KnownPair, PointwiseReward
from flexgym.rewards.known import fitting_and_other_prompt
from flexgym.shapes.captions import parse_caption
from flexgym.shapes.reading import Reading, read_groups, read_samples
from flexgym.shapes.scenes import SIZE
from flexgym.shapes.verifier import check
from flexgym.types import GroupScores, Prompt, SampleGroup


class ShapesVerifier(PointwiseReward):
    """Share of the caption's constraints that a sample meets, 0 to 1, read from its pixels.

    Samples of a caption from outside the small world are failures, since it has no constraints that can be checked.
    """

    own_process = True

    def known_pairs(self) -> list[KnownPair]:
        """Return images of the size of the small world, of the prompt and of something else."""
        return fitting_and_other_prompt(SIZE)

    def score(self, groups: Sequence[SampleGroup]) -> list[GroupScores]:
        """Score every group; the samples of all of them are read in one batch where their sizes agree."""
        readings = read_groups([group.samples for group in groups])
        return [
            # Samples that cannot be read fail in their own group only.
            self.score_group(
                group,
                partial(self.score_samples, group.prompt, group.samples)
                if found is None
                else partial(_shares, group.prompt, found),
            )
            for group, found in zip(groups, readings, strict=True)
        ]

    def score_samples(self, prompt: Prompt, samples: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the share of the constraints that each sample meets.

        Args:
            prompt: a caption of the small world.
            samples: uint8 ``[n, H, W, 3]`` or ``[n, F, H, W, 3]``.

        Returns:
            float32 ``[n]`` in 0..1.

        Raises:
            ValueError: for a caption from outside the small world or samples of another kind; `score` counts these as
                failures.
        """
        return _shares(prompt, read_samples(samples))


def _shares(prompt: Prompt, readings: Sequence[Reading]) -> NDArray[np.float32]:
    spec = parse_caption(prompt.text)
    return np.array([check(spec, reading).score for reading in readings], dtype=np.float32)
