"""The rule-based verifier of the small world as a reward."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from flexgym.shapes.captions import parse_caption
from flexgym.shapes.verifier import verify
from flexgym.types import Prompt
from rewards.base import PointwiseReward, register


@register("shapes_verifier")
class ShapesVerifier(PointwiseReward):
    """Share of the caption's constraints that a sample meets, 0 to 1, read from its pixels.

    A caption that is not of the small world demands nothing that could be checked: its samples are failures.
    """

    def score_samples(self, prompt: Prompt, samples: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Share of the constraints met by each sample.

        Args:
            prompt: a caption of the small world.
            samples: uint8 ``[n, H, W, 3]`` or ``[n, F, H, W, 3]``.

        Returns:
            float32 ``[n]`` in 0..1.

        Raises:
            ValueError: if the caption is foreign; `score` turns that into counted failures.
        """
        spec = parse_caption(prompt.text)
        return np.array([verify(spec, sample).score for sample in samples], dtype=np.float32)
