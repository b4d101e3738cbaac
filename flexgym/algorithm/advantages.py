"""Advantages of scored groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flexgym.flow import blended_advantages, diversity_weighted, keep_extremes
from flexgym.types import GroupScores, stacked_term


def advantages_of(
    scores: Sequence[GroupScores],
    *,
    monitors: Mapping[str, NDArray[np.float32]] | None = None,
    diversity: str | None = None,
    **options: Any,
) -> NDArray[np.float32]:
    """Compute the advantages of scored groups.

    Terms with weights are normalized one by one and then blended, as in Pref-GRPO (arXiv 2508.20751); otherwise the
    reward itself is normalized.

    Args:
        scores: of P groups of the same size G.
        monitors: scores ``[P, G]`` of the monitored rewards by name.
        diversity: monitor whose scores say how much a sample differs from the others of its group; good samples count
            by it, see `flexgym.flow.diversity_weighted`.
        **options: of `flexgym.flow.blended_advantages`, and ``best`` and ``worst`` of `flexgym.flow.keep_extremes`,
            which leaves the others without advantage (best-of-N selection of DanceGRPO, arXiv 2505.07818).

    Returns:
        float32 ``[P, G]``; 0 where a sample could not be scored.
    """
    best, worst = options.pop("best", None), options.pop("worst", None)
    advantages = _normalized(scores, options)
    if diversity is not None:
        advantages = diversity_weighted(advantages, (monitors or {})[diversity]).astype(np.float32)
    if best is None:
        return advantages
    return keep_extremes(advantages, best=best, worst=worst or 0).astype(np.float32)


def _normalized(scores: Sequence[GroupScores], options: Mapping[str, Any]) -> NDArray[np.float32]:
    # A group whose reward failed altogether has no weights.
    known = next((group.weights for group in scores if group.weights), None)
    if known is None:
        rewards = np.stack([group.rewards for group in scores])
        return blended_advantages({"reward": rewards}, {"reward": 1.0}, **options)
    terms = {name: stacked_term(scores, name) for name in known}
    weights = {name: [(group.weights or known)[name] for group in scores] for name in known}
    return blended_advantages(terms, weights, **options)
