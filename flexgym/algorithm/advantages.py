"""Advantages of scored groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexgym.flow import blended_advantages
from flexgym.types import GroupScores, stacked_term


def advantages_of(scores: Sequence[GroupScores], **options: Any) -> NDArray[np.float32]:
    """Compute the advantages of scored groups.

    Terms with weights are normalized one by one and then blended, as in Pref-GRPO (arXiv 2508.20751); otherwise the
    reward itself is normalized.

    Args:
        scores: of P groups of the same size G.
        **options: of `flexgym.flow.blended_advantages`.

    Returns:
        float32 ``[P, G]``; 0 where a sample could not be scored.
    """
    # A group whose reward failed altogether has no weights.
    weights = next((group.weights for group in scores if group.weights), None)
    if weights is None:
        rewards = np.stack([group.rewards for group in scores])
        return blended_advantages({"reward": rewards}, {"reward": 1.0}, **options)
    terms = {name: stacked_term(scores, name) for name in weights}
    return blended_advantages(terms, weights, **options)
